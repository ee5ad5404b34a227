"""Components of a model as values, and the trace of one: module -> ExportedProgram.

A ``SourceComponent`` is a network with static, batch-1 tensors. A ``SourceModel`` is everything a bundle needs to
know about a model. Providers make them (``providers``); what lies below knows nothing else, so a model of another
library needs a provider and no change here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from microforge.bundle.manifest import Driving, DType, ModelEntry, Size
from microforge.bundle.unwritten import UnwrittenBundle, unwritten_bundle
from microforge.components.torch_session import Network
from microforge_runtimes import Request

_DTYPES: Mapping[DType, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
}


@dataclass(frozen=True)
class SourceComponent(Network):
    """A network to export. What it declares is used for tracing, for the graph's names and for the manifest."""

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the declared shapes and types: all ones, since traces do not depend on values."""
        return tuple(torch.ones(spec.shape, dtype=_DTYPES[spec.dtype]) for spec in self.inputs)

    def weight_bytes(self) -> int:
        """Bytes of the parameters, each counted once."""
        return sum(value.numel() * value.element_size() for value in self.module.parameters())


@dataclass(frozen=True)
class SampleRequest:
    """One sample to check a build with: prompt, seed of its noise, and task; None is the model's default task.

    A task that takes an image gets a fixed one (``checks.test_images``). An empty prompt is none.
    """

    prompt: str
    seed: int
    task: str | None = None


class Provider(Protocol):
    """What a model's own library can do with it."""

    def components(self, sizes: Sequence[Size], tasks: Sequence[str]) -> tuple[SourceComponent, ...]:
        """The networks of a bundle for these image sizes and tasks."""
        ...

    def driving(self, tasks: Sequence[str]) -> Driving:
        """How the networks are run for ``tasks``."""
        ...

    def prompts(self, count: int, seed: int) -> tuple[str, ...]:
        """``count`` prompts of the kind that the model is used with: to calibrate and to judge it."""
        ...

    def reference(self, request: Request, size: Size) -> NDArray[np.float32]:
        """Image (1, 3, H, W) in [0, 1] of the library's own pipeline: the reference for the whole bundle.

        Only asked for tasks of the model, on the images that ``checks.test_images`` gives.
        """
        ...


@dataclass(frozen=True)
class SourceModel:
    """A model to export, as its provider describes it.

    ``files``: path in the bundle -> source, of tokenizers. ``requests``: what a build is checked with, at least one per
    task; the first one of a task is its golden trajectory. ``texts``: what networks do, by role, and tensors contain,
    by name, for the files' own descriptions. ``preview_samples`` is how many samples the preview is fitted to and measured
    on. ``remarks`` are lines for the user about choices that were made for this model.
    """

    provider: Provider
    about: ModelEntry
    native_size: Size
    tasks: tuple[str, ...]
    files: Mapping[str, Path]
    requests: tuple[SampleRequest, ...]
    checkpoint_sha256: str
    path: Path = field(default=Path("model"))
    texts: Mapping[str, str] = field(default_factory=dict)
    preview_samples: int = 32
    remarks: tuple[str, ...] = ()

    def bundle(
        self, components: Sequence[Network], sizes: Sequence[Size], tasks: Sequence[str]
    ) -> UnwrittenBundle:
        """The model as a bundle in memory: what the runtime samples with, on torch modules or on artefacts."""
        return unwritten_bundle(
            self.provider.driving(tasks), {item.key: item.entry() for item in components}, sizes, self.about,
            path=self.path, sources=self.files, checkpoint_sha256=self.checkpoint_sha256,
        )  # fmt: skip


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


def _check_outputs(component: SourceComponent, outputs: Tensor | tuple[Tensor, ...]) -> None:
    for spec, value in zip(component.outputs, component.named(outputs).values(), strict=True):
        if tuple(value.shape) != spec.shape or value.dtype != _DTYPES[spec.dtype]:
            raise ValueError(
                f"{component.key}: output {spec.name} is {value.dtype} {list(value.shape)}, "
                f"declared as {spec.dtype} {list(spec.shape)}"
            )
