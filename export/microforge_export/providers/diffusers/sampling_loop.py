"""Sampling loops of the diffusers library, run with any function in place of the network and with known noise.

A loop is the library's own code: a whole pipeline, or a scheduler alone. Nothing here knows what a scheduler computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from microforge_export.providers.diffusers.noise_source import replaced_noise

#: Input (B, C, h, w) with one row per guidance branch, time, and the network's other inputs -> output (B, C, h, w).
Denoise = Callable[[Tensor, float, Mapping[str, Tensor]], Tensor]
#: Index -> noise (1, C, h, w): 0 is the initial one, k + 1 the fresh one that follows evaluation k.
NumberedNoise = Callable[[int], Tensor]
#: Latents (1, C, h, w) after a step, as the scheduler gives them, and the evaluations so far -> what the loop goes on with.
AfterStep = Callable[[Tensor, int], Tensor]


class SamplingLoop(Protocol):
    """A loop of the library from noise to the final latent (1, C, h, w)."""

    @property
    def scheduler(self) -> Any:
        """The library's scheduler, prepared by the last run."""
        ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(1, C, h, w)."""
        ...

    def run(self, denoise: Denoise, noise: NumberedNoise, after: AfterStep | None = None) -> Tensor:
        """The final latent; ``denoise`` stands in place of the network."""
        ...


def scaled_input(scheduler: Any, latents: Tensor, time: Any) -> Tensor:
    """The network's input of a scheduler's latents; some schedulers know no difference."""
    scale = getattr(scheduler, "scale_model_input", None)
    return latents if scale is None else scale(latents, time)


@contextmanager
def stepped(scheduler: Any, after: AfterStep | None, evaluations: Callable[[], int]) -> Iterator[None]:
    """Within the block ``after`` sees, and may change, the latents of every step of ``scheduler``."""
    if after is None:
        yield
        return
    original = scheduler.step

    def step(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if isinstance(result, tuple):
            return (after(result[0], evaluations()), *result[1:])
        result.prev_sample = after(result.prev_sample, evaluations())
        return result

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step


@dataclass(frozen=True)
class SchedulerLoop:
    """A scheduler without a pipeline: ``steps`` steps with one guidance branch.

    ``step_options`` are passed to the scheduler's ``step``, such as ``eta``. ``evaluations`` of its times are run, all
    of them when None.
    """

    scheduler: Any
    steps: int
    latent_shape: tuple[int, ...] = (1, 4, 16, 16)
    step_options: Mapping[str, Any] = field(default_factory=dict)
    evaluations: int | None = None

    def run(self, denoise: Denoise, noise: NumberedNoise, after: AfterStep | None = None) -> Tensor:
        """See ``SamplingLoop``."""
        scheduler, count = self.scheduler, 0
        with replaced_noise(lambda shape: noise(count)), stepped(scheduler, after, lambda: count):
            scheduler.set_timesteps(self.steps)
            latents = noise(0) * getattr(scheduler, "init_noise_sigma", 1.0)
            for time in scheduler.timesteps[: self.evaluations]:
                scaled = scaled_input(scheduler, latents, time)
                output = denoise(scaled, float(time), {})
                count += 1
                latents = scheduler.step(output, time, latents, **self.step_options, return_dict=False)[0]
        return latents


@dataclass(frozen=True)
class PipelineLoop:
    """A whole pipeline; ``call`` are the arguments of every call, such as prompt, size, steps and guidance scale."""

    pipeline: Any
    latent_shape: tuple[int, ...]
    call: Mapping[str, Any]

    @property
    def scheduler(self) -> Any:
        """The pipeline's scheduler."""
        return self.pipeline.scheduler

    @property
    def network(self) -> Any:
        """The pipeline's denoising network."""
        return getattr(self.pipeline, "unet", None) or self.pipeline.transformer

    def run(self, denoise: Denoise | None, noise: NumberedNoise, after: AfterStep | None = None) -> Tensor:
        """See ``SamplingLoop``; without ``denoise`` the pipeline's own network is run."""
        network, count = self.network, 0
        original = network.forward

        def forward(
            sample: Tensor | None = None, timestep: Any = None, *args: Any, **kwargs: Any
        ) -> tuple[Tensor]:
            nonlocal count
            if denoise is None:
                count += 1
                return original(sample, timestep, *args, **kwargs)  # type: ignore[no-any-return]
            sample = kwargs.pop("hidden_states") if sample is None else sample
            others = _tensors(kwargs) | _positional(network, args)
            output = denoise(sample, _first(timestep), others)
            count += 1
            return (output,)

        network.forward = forward
        try:
            with replaced_noise(lambda shape: noise(count)), stepped(self.scheduler, after, lambda: count):
                result = self.pipeline(**self.call, output_type="latent", return_dict=False)
        finally:
            del network.forward
        return result[0]  # type: ignore[no-any-return]


def _first(timestep: Any) -> float:
    return float(torch.as_tensor(timestep).reshape(-1)[0])


def _tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of keyword arguments; those of a nested mapping stand beside them."""
    tensors: dict[str, Tensor] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Mapping):
            tensors |= _tensors(value)
    return tensors


def _positional(network: Any, args: tuple[Any, ...]) -> dict[str, Tensor]:
    names = type(network).forward.__code__.co_varnames[3:]
    return {name: value for name, value in zip(names, args, strict=False) if isinstance(value, Tensor)}
