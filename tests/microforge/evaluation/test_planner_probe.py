"""The planner's figures: what they are for planners whose answer is known."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from microforge.evaluation.planner_probe import Drawing, probe_planner
from microforge.pipeline import MicroForgePipeline
from microforge.planner import plan_cosine
from microforge.sampling import batch_time

TEXTS = ("a red circle", "two blue stars")
DRAWING = Drawing(64, 64, steps=3, guidance=2.0, seed=5)


@pytest.fixture
def own(pipeline: MicroForgePipeline) -> Iterator[MicroForgePipeline]:
    yield copy.deepcopy(pipeline)


@torch.no_grad()
def test_the_first_step_shows_the_cosine_of_the_prompts_own_plan(own: MicroForgePipeline) -> None:
    figures = probe_planner(own, TEXTS[:1], Drawing(64, 64, steps=1, guidance=3.0, seed=5))
    text = own._prompt_encoder().encode(TEXTS[0], "generate")
    plan = own.planner.empty(1, torch.device("cpu"))
    expected = own.planner(
        own._noise((64, 64), 1, 5), batch_time(1.0, 1, torch.device("cpu")), text.pooled, plan, torch.zeros(1)
    )
    assert figures.mean_cosine == pytest.approx(float(plan_cosine(expected)), abs=1e-5)


def test_one_step_has_no_memory_and_several_do(own: MicroForgePipeline) -> None:
    assert probe_planner(own, TEXTS, Drawing(64, 64, 1, 2.0, 5)).self_conditioning_change == 0.0
    assert probe_planner(own, TEXTS, DRAWING).self_conditioning_change > 1e-4


def test_a_planner_without_self_conditioning_changes_nothing(own: MicroForgePipeline) -> None:
    own.planner.self_conditioning = False
    assert probe_planner(own, TEXTS, DRAWING).self_conditioning_change == 0.0


@torch.no_grad()
def test_collapsed_plan_tokens_have_cosine_one(own: MicroForgePipeline) -> None:
    own.planner.queries.copy_(own.planner.queries[:, :1].expand_as(own.planner.queries).clone())
    assert probe_planner(own, TEXTS, DRAWING).mean_cosine == pytest.approx(1.0, abs=1e-4)


def test_the_pipeline_draws_as_before_afterwards(own: MicroForgePipeline) -> None:
    def draw() -> Tensor:
        return own.text2img(list(TEXTS), 64, 64, 3, 2.0, 5)

    before = draw()
    probe_planner(own, TEXTS, DRAWING)
    assert (
        torch.equal(draw(), before) and not own.planner._forward_hooks and not own.planner._forward_pre_hooks
    )
