"""Converts PyTorch networks to LiteRT flatbuffers (``.tflite``) with litert-torch, and quantizes their weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ai_edge_quantizer
import litert_torch
from ai_edge_quantizer.qtyping import TFLOperationName
from torch import Tensor, nn
from torch.export import ExportedProgram

from microforge.errors import GraphLintError, MicroForgeError
from microforge.io.quiet import quiet
from microforge_export.components.component import SourceComponent
from microforge_export.recipes.int8_recipe import Scheme

#: Operator group -> the operators of LiteRT in it. A tensor's name in the file does not tell its module reliably,
#: so a group is a kind of operator.
GROUPS: Mapping[str, tuple[TFLOperationName, ...]] = {
    "matmul": (TFLOperationName.FULLY_CONNECTED,),
    "conv": (
        TFLOperationName.CONV_2D,
        TFLOperationName.DEPTHWISE_CONV_2D,
        TFLOperationName.CONV_2D_TRANSPOSE,
    ),
    "gather": (TFLOperationName.EMBEDDING_LOOKUP,),
}


class _Named(nn.Module):
    """A traced network whose results are a dictionary, from which the file takes their names."""

    def __init__(self, component: SourceComponent, program: ExportedProgram) -> None:
        super().__init__()
        self.network = program.module()
        self._inputs = [spec.name for spec in component.inputs]
        self._outputs = [spec.name for spec in component.outputs]

    def train(self, mode: bool = True) -> _Named:
        """Does nothing: a traced network has no training mode, and refuses the call."""
        self.training = False
        return self

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        results = self.network(*(inputs[name] for name in self._inputs))
        values = [results] if isinstance(results, Tensor) else list(results)
        return dict(zip(self._outputs, values, strict=True))


def convert(components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram]) -> bytes:
    """One file with a signature per component, named by its key, whose equal weights are stored once.

    Inputs of type int64 become int32: LiteRT's operators have no other integers.

    Raises:
        GraphLintError: if litert-torch cannot convert a component; names it.
    """
    litert_torch.config.show_progress = False
    converter: Any = litert_torch.Converter()
    with refusing(", ".join(item.key for item in components)), quiet(), _without_logs():
        for item in components:
            names = [spec.name for spec in item.inputs]
            module = _Named(item, programs[item.key]).eval()
            converter.add_signature(
                item.key, module, sample_kwargs=dict(zip(names, item.example(), strict=True))
            )
        model = converter.convert()
        return bytes(model._exporter.to_bytes())


def quantize(model: bytes, schemes: Mapping[str, Scheme]) -> bytes:
    """A copy of ``model`` with int8 weights per channel in the groups whose scheme is not fp32."""
    quantizer = ai_edge_quantizer.Quantizer(bytearray(model))
    quantized = False
    for group, scheme in schemes.items():
        if scheme == "fp32":
            continue
        add = quantizer.add_dynamic_config if scheme == "dynamic" else quantizer.add_weight_only_config
        for operation in GROUPS[group]:
            add(regex=".*", operation_name=operation, num_bits=8)
            quantized = True
    if not quantized:
        return model
    with quiet(), _without_logs():
        return bytes(quantizer.quantize().quantized_model)


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Convert exceptions of litert-torch to one line about the component; MicroForge errors pass."""
    try:
        yield
    except MicroForgeError:
        raise
    except Exception as error:  # their exceptions have no common base class
        reason = " ".join(str(error).split())[:300]
        raise GraphLintError(f"{what}: litert-torch cannot convert it: {reason}") from error


@contextmanager
def _without_logs() -> Iterator[None]:
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
