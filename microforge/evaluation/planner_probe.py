"""Does the planner do anything? Two figures of a checkpoint, measured while it draws (SPEC sections 3 and 9).

Collapse: plan tokens that all point one way carry one token's worth of information. Self-conditioning: a plan that
the next step ignores costs its bytes in every runtime and gives nothing back.

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
class Drawing:
    """How the images are drawn: size in pixels, steps of a uniform grid, guidance scale, seed of the first."""

    height: int
    width: int
    steps: int
    guidance: float
    seed: int


@dataclass(frozen=True)
class PlannerFigures:
    """``mean_cosine``: between different plan tokens, over the prompts' own branch and all steps; 1 is collapse.

    ``self_conditioning_change``: root of the mean squared difference, in [0, 1], between images drawn with
    the plan handed on and the same images drawn without it; 0 when the plan's memory is ignored.
    """

    mean_cosine: float
    self_conditioning_change: float


def probe_planner(pipeline: MicroForgePipeline, texts: Sequence[str], drawing: Drawing) -> PlannerFigures:
    """Draw ``texts`` twice from the same noise, watching the planner and then cutting off its memory."""

    def draw() -> Tensor:
        return pipeline.text2img(
            list(texts), drawing.height, drawing.width, drawing.steps, drawing.guidance, drawing.seed
        )

    with _watched(pipeline.planner) as cosines:
        usual = draw()
    with _forgetful(pipeline.planner):
        without = draw()
    # With guidance a step plans once for the prompt and then once for the empty prompt.
    own = cosines[:: len(cosines) // drawing.steps]
    change = (usual.double() - without.double()).square().mean().sqrt()
    return PlannerFigures(sum(own) / len(own), float(change))


@contextmanager
def _watched(planner: RecurrentLatentPlanner) -> Iterator[list[float]]:
    """Collects the mean cosine of every plan (B, K, D) that the planner makes inside the block."""
    cosines: list[float] = []

    def watch(module: nn.Module, inputs: tuple[Any, ...], plan: Tensor) -> None:
        cosines.append(float(plan_cosine(plan)))

    handle = planner.register_forward_hook(watch)
    try:
        yield cosines
    finally:
        handle.remove()


@contextmanager
def _forgetful(planner: RecurrentLatentPlanner) -> Iterator[None]:
    """Inside the block every step plans as if it were the first: ``has_plan`` is 0."""

    def forget(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*inputs[:_HAS_PLAN], torch.zeros_like(inputs[_HAS_PLAN]), *inputs[_HAS_PLAN + 1 :])

    handle = planner.register_forward_pre_hook(forget)
    try:
        yield
    finally:
        handle.remove()
