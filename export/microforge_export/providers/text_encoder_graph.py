"""A text tower to one ONNX graph: optimum's exporter, told the interface of a bundle's ``text_encoder``.

The exporter's file goes through the same folding and lint as every graph of a bundle: shapes are static, names are
the declared ones, and nothing in it varies between two runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch

from microforge.components.networks import tensor
from microforge.errors import GraphLintError, missing_extra
from microforge.hf_text_encoder import HuggingFaceTextEncoder
from microforge.io.quiet import quiet
from microforge_export.components.component import SourceComponent
from microforge_export.targets.onnx.lint import lint
from microforge_export.targets.onnx.lower import OPSET, fold
from microforge_export.targets.onnx.shared_weights import SharedWeights, check_graph, write_graph

try:
    with quiet("torch.utils._pytree"):  # torchao, which comes with it, warns about its own use of torch
        from optimum.exporters.onnx import OnnxConfig
        from optimum.exporters.onnx import export as optimum_export
        from optimum.utils import DummyInputGenerator, NormalizedConfig
except ImportError:
    raise missing_extra("optimum-onnx", "text") from None


def text_component(tower: HuggingFaceTextEncoder) -> SourceComponent:
    """The tower as the component ``text_encoder``: ids and mask (1, L) to text (1, L, E) and pooled (1, E)."""
    length, width = tower.spec.max_length, tower.embed_dim
    inputs = tensor("ids", 1, length, dtype="int64"), tensor("mask", 1, length)
    outputs = tensor("text", 1, length, width), tensor("pooled", 1, width)
    return SourceComponent("text_encoder", "text_encoder", None, tower, inputs, outputs)


def _config(component: SourceComponent, tower: HuggingFaceTextEncoder) -> Any:
    """The component's declaration as optimum reads it: names without a dynamic axis, and example inputs."""
    example = dict(zip((spec.name for spec in component.inputs), component.example(), strict=True))

    class Examples(DummyInputGenerator):  # type: ignore[misc]
        SUPPORTED_INPUT_NAMES = tuple(example)

        def __init__(self, task: str, normalized_config: Any, **shapes: int) -> None:
            pass

        def generate(self, input_name: str, **_: str) -> torch.Tensor:
            return example[input_name]

    class TowerConfig(OnnxConfig):  # type: ignore[misc]
        NORMALIZED_CONFIG_CLASS = NormalizedConfig
        DUMMY_INPUT_GENERATOR_CLASSES = (Examples,)
        inputs: Mapping[str, Mapping[int, str]] = {spec.name: {} for spec in component.inputs}
        outputs: Mapping[str, Mapping[int, str]] = {spec.name: {} for spec in component.outputs}

    return TowerConfig(tower.config, task="feature-extraction")


def lower_tower(tower: HuggingFaceTextEncoder, scratch: Path) -> ir.Model:
    """The tower as one graph with static shapes.

    Args:
        scratch: existing folder for the exporter's own file, which is gone afterwards.
    Raises:
        GraphLintError: when it holds something that phones cannot run well.
    """
    component = text_component(tower)
    with (
        tempfile.TemporaryDirectory(dir=scratch) as folder,
        quiet("torch.onnx", "optimum", "onnxscript", "onnx_ir"),
        torch.no_grad(),
    ):
        path = Path(folder) / "tower.onnx"
        optimum_export(
            tower, _config(component, tower), path, opset=OPSET, no_dynamic_axes=True,
            disable_dynamic_axes_fix=True,
        )  # fmt: skip
        model = ir.load(path)
        ir.external_data.load_to_model(model)
        model = fold(model)
    model.graph.name = component.role
    lint(component.key, model)
    return model


def write_tower(model: ir.Model, path: Path, inline_limit: int) -> tuple[Path, ...]:
    """Write the graph to ``path``; when its weights exceed ``inline_limit`` bytes they lie beside it.

    Returns:
        The files: the graph, then that of the weights when there is one.
    Raises:
        GraphLintError: when the written file is not valid ONNX.
    """
    weights = path.with_suffix(".bin")
    constants = (value.const_value for value in model.graph.initializers.values())
    if sum(constant.nbytes for constant in constants if constant is not None) <= inline_limit:
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        files: tuple[Path, ...] = (path,)
    else:
        with SharedWeights(weights) as shared:
            write_graph(model, path, shared)
        files = path, weights
    try:
        check_graph(path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphLintError(f"{path.name}: onnx.checker: {' '.join(str(error).split())[:300]}") from None
    return files
