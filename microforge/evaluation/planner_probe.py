"""Two metrics of the planner of a checkpoint, measured while it generates: collapse and self-conditioning.

Collapse: plan tokens that all have the same direction carry the information of one. Self-conditioning: if the next step
ignores the plan of the previous one, its memory and bandwidth are wasted on every device (SPEC sections 3 and 9).

Letters: B images, K plan tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from microforge.pipeline import MicroForgePipeline
from microforge.planner import RecurrentLatentPlanner, plan_cosine

_HAS_PLAN = 4  # position among the arguments of RecurrentLatentPlanner.forward


@dataclass(frozen=True)
class ProbeSettings:
    """Size in pixels, sampling steps on a uniform grid, guidance scale, and seed of the first image."""

    height: int
    width: int
    steps: int
    guidance: float
    seed: int


@dataclass(frozen=True)
class PlannerMetrics:
    """Metrics of the planner.

    Attributes:
        mean_cosine: cosine similarity between different plan tokens, over the conditional branch and all steps; 1 is
            collapse.
        self_conditioning_change: root mean squared difference, in [0, 1], between images generated with and without the
            plan of the previous step; 0 when the planner ignores it.
    """

    mean_cosine: float
    self_conditioning_change: float


def probe_planner(
    pipeline: MicroForgePipeline, prompts: Sequence[str], settings: ProbeSettings
) -> PlannerMetrics:
    """Generate images for ``prompts`` twice from the same noise: as usual, and without the previous step's plan."""

    def generate() -> Tensor:
        return pipeline.text2img(
            list(prompts), settings.height, settings.width, settings.steps, settings.guidance, settings.seed
        )

    with _recorded_cosines(pipeline.planner) as cosines:
        usual = generate()
    with _without_memory(pipeline.planner):
        without = generate()
    # With guidance each step plans for the prompt first and then for the empty prompt.
    conditional = cosines[:: len(cosines) // settings.steps]
    change = (usual.double() - without.double()).square().mean().sqrt()
    return PlannerMetrics(sum(conditional) / len(conditional), float(change))


@contextmanager
def _recorded_cosines(planner: RecurrentLatentPlanner) -> Iterator[list[float]]:
    """Record the mean cosine of every plan (B, K, D) that the planner computes inside the block."""
    cosines: list[float] = []

    def record(module: nn.Module, inputs: tuple[Any, ...], plan: Tensor) -> None:
        cosines.append(float(plan_cosine(plan)))

    handle = planner.register_forward_hook(record)
    try:
        yield cosines
    finally:
        handle.remove()


@contextmanager
def _without_memory(planner: RecurrentLatentPlanner) -> Iterator[None]:
    """Inside the block every step plans as if it were the first: ``has_plan`` is 0."""

    def clear(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*inputs[:_HAS_PLAN], torch.zeros_like(inputs[_HAS_PLAN]), *inputs[_HAS_PLAN + 1 :])

    handle = planner.register_forward_pre_hook(clear)
    try:
        yield
    finally:
        handle.remove()
