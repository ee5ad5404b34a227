"""Components of a model as values, and the trace of one: module -> ExportedProgram.

A ``SourceComponent`` is a network with static, batch-1 tensors. A ``SourceModel`` is everything a bundle needs to
know about a model. Providers make them (``microforge_provider``); what lies below knows nothing else, so a
model of another library needs a provider and no change here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from torch.export import ExportedProgram

from microforge.bundle import manifest
from microforge.bundle.manifest import DType, Latent, Role, Sampler, Size, Task, TensorSpec

_DTYPES: Mapping[DType, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
}


@dataclass(frozen=True)
class SourceComponent:
    """A network to export: ``key`` names it in the bundle, ``size`` is None where it serves every size.

    ``inputs`` and ``outputs`` are declared once and used for tracing, for the graph's names and for the
    manifest; ``module`` takes ``inputs`` in order and returns ``outputs`` in order.
    """

    key: str
    role: Role
    size: Size | None
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def entry(self) -> manifest.Component:
        """This component in the manifest."""
        return manifest.Component(role=self.role, size=self.size, inputs=self.inputs, outputs=self.outputs)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the declared shapes and types: all ones, since traces do not depend on values."""
        return tuple(torch.ones(spec.shape, dtype=_DTYPES[spec.dtype]) for spec in self.inputs)

    @torch.no_grad()
    def evaluate(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Run the module itself: arrays by name in, arrays by name out."""
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[spec.name])) for spec in self.inputs]
        return {name: value.numpy() for name, value in _named_outputs(self, self.module(*tensors)).items()}

    def weight_bytes(self) -> int:
        """Bytes of the parameters, each counted once."""
        return sum(value.numel() * value.element_size() for value in self.module.parameters())


class Provider(Protocol):
    """What a model's own library can do with it."""

    def components(self, sizes: Sequence[Size], tasks: Sequence[Task] = ...) -> tuple[SourceComponent, ...]:
        """The networks of a bundle for these image sizes; by default those of ``generate``."""
        ...

    def draw(self, prompt: str, seed: int, size: Size) -> NDArray[np.float32]:
        """Image (1, 3, H, W) in [0, 1] of the library's own pipeline: the reference for the whole bundle."""
        ...

    def redraw(
        self, task: Task, prompt: str | None, seed: int, source: NDArray[np.float32], mask: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:  # fmt: skip
        """The same for a task with a source: ``source`` and ``mask`` as ``sources.Given`` has them.

        Only asked for tasks of the model.
        """
        ...


@dataclass(frozen=True)
class TokenizerSource:
    """A ``tokenizer.json``, L, and the ids that frame a prompt (see docs/bundle.md)."""

    path: Path
    max_length: int
    pad: int
    bos: int
    eos: int
    task_prefixes: Mapping[Task, int]


@dataclass(frozen=True)
class SourceModel:
    """A model to export, as its provider describes it."""

    provider: Provider
    description: Mapping[str, JsonValue]
    sampler: Sampler
    latent: Latent
    native_size: Size
    tasks: tuple[Task, ...]
    tokenizer: TokenizerSource
    checkpoint_sha256: str


def component_key(role: Role, size: Size | None, sizes: Sequence[Size]) -> str:
    """``denoiser`` in a bundle of one size, ``denoiser_256x384`` in a bundle of several."""
    return role if size is None or len(sizes) == 1 else f"{role}_{size}"


def tensor(name: str, *shape: int, dtype: DType = "float32") -> TensorSpec:
    return TensorSpec(name=name, shape=shape, dtype=dtype)


@torch.no_grad()
def trace(component: SourceComponent) -> ExportedProgram:
    """The component's graph of core operators, with static shapes.

    Raises:
        ValueError: when the module's outputs are not the declared ones.
    """
    module, example = component.module.eval(), component.example()
    # An eager run first: modules cache constants by shape, and a traced run would put fake tensors there.
    _check_outputs(component, module(*example))
    return torch.export.export(module, example, strict=False)


def _named_outputs(component: SourceComponent, outputs: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    values = (outputs,) if isinstance(outputs, Tensor) else outputs
    return {spec.name: value for spec, value in zip(component.outputs, values, strict=True)}


def _check_outputs(component: SourceComponent, outputs: Tensor | tuple[Tensor, ...]) -> None:
    for spec, value in zip(component.outputs, _named_outputs(component, outputs).values(), strict=True):
        if tuple(value.shape) != spec.shape or value.dtype != _DTYPES[spec.dtype]:
            raise ValueError(
                f"{component.key}: output {spec.name} is {value.dtype} {list(value.shape)}, "
                f"declared as {spec.dtype} {list(spec.shape)}"
            )
