"""Metrics of planners whose values are known."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from microforge.evaluation.planner_probe import ProbeSettings, probe_planner
from microforge.pipeline import MicroForgePipeline
from microforge.planner import plan_cosine
from microforge.sampling import batch_time

TEXTS = ("a red circle", "two blue stars")
SETTINGS = ProbeSettings(64, 64, steps=3, guidance=2.0, seed=5)


@pytest.fixture
def model(pipeline: MicroForgePipeline) -> Iterator[MicroForgePipeline]:
    yield copy.deepcopy(pipeline)


@torch.no_grad()
def test_the_first_step_has_the_cosine_of_the_conditional_plan(model: MicroForgePipeline) -> None:
    metrics = probe_planner(model, TEXTS[:1], ProbeSettings(64, 64, steps=1, guidance=3.0, seed=5))
    text = model._prompt_encoder().encode(TEXTS[0], "generate")
    plan = model.planner.empty(1, torch.device("cpu"))
    expected = model.planner(
        model._noise((64, 64), 1, 5),
        batch_time(1.0, 1, torch.device("cpu")),
        text.pooled,
        plan,
        torch.zeros(1),
    )
    assert metrics.mean_cosine == pytest.approx(float(plan_cosine(expected)), abs=1e-5)


def test_one_step_has_no_memory_and_several_do(model: MicroForgePipeline) -> None:
    assert probe_planner(model, TEXTS, ProbeSettings(64, 64, 1, 2.0, 5)).self_conditioning_change == 0.0
    assert probe_planner(model, TEXTS, SETTINGS).self_conditioning_change > 1e-4


def test_a_planner_without_self_conditioning_changes_nothing(model: MicroForgePipeline) -> None:
    model.planner.self_conditioning = False
    assert probe_planner(model, TEXTS, SETTINGS).self_conditioning_change == 0.0


@torch.no_grad()
def test_collapsed_plan_tokens_have_cosine_one(model: MicroForgePipeline) -> None:
    model.planner.queries.copy_(model.planner.queries[:, :1].expand_as(model.planner.queries).clone())
    assert probe_planner(model, TEXTS, SETTINGS).mean_cosine == pytest.approx(1.0, abs=1e-4)


def test_the_pipeline_is_unchanged_afterwards(model: MicroForgePipeline) -> None:
    def generate() -> Tensor:
        return model.text2img(list(TEXTS), 64, 64, 3, 2.0, 5)

    before = generate()
    probe_planner(model, TEXTS, SETTINGS)
    assert (
        torch.equal(generate(), before)
        and not model.planner._forward_hooks
        and not model.planner._forward_pre_hooks
    )
