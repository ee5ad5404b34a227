"""The flow stage: one batch for all pieces, terms that are means over samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from microforge.checkpoint import read_checkpoint, write_checkpoint
from microforge.data.world.image_source import SceneSource
from microforge.pipeline import MicroForgePipeline
from microforge.planner import plan_similarity
from microforge.sampling import MEAN_LOSS_WEIGHT, loss_weight, shifted_time
from microforge.tokenizer import PromptTokenizer
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.loop_options import LoopSettings
from microforge.training.losses.terms import weighted_velocity
from microforge.training.settings import FlowSettings
from microforge.training.stages.flow import FlowContext, FlowStage


@pytest.fixture
def stage(tmp_path: Path, mini: Any) -> FlowStage:
    pipeline = MicroForgePipeline.from_spec(mini.MINI)
    modules, tokenizer = pipeline.modules_by_name(), PromptTokenizer.load()
    write_checkpoint(tmp_path / "start", pipeline.spec, modules, tokenizer, ("vae", "flow"))
    start, settings = read_checkpoint(tmp_path / "start"), FlowSettings(**mini.FLOW)
    context = FlowContext.open(mini.MINI, start, LoopSettings(), (64, 64))
    return FlowStage(context, settings, SceneSource(), tmp_path / "latents.safetensors", Console(quiet=True))


@pytest.mark.parametrize("count", [2, 4])
def test_pieces_of_a_step_are_rows_of_the_whole_batch(stage: FlowStage, count: int) -> None:
    whole = stage.make_batch(3, WHOLE)
    pieces = [stage.make_batch(3, BatchShard(index, count)) for index in range(count)]
    for name in ("ids", "z0", "noise", "t", "has_plan"):
        whole_again = torch.cat([getattr(piece, name) for piece in pieces])
        assert torch.equal(whole_again, getattr(whole, name)), name
    terms = [stage.loss(3, BatchShard(index, count)) for index in range(count)]
    for name, value in stage.loss(3).items():
        mean = torch.stack([term[name] for term in terms]).mean()
        assert torch.allclose(mean, value, atol=1e-5), name


def test_a_batch_depends_on_the_step_alone_and_spreads_t_over_its_range(stage: FlowStage) -> None:
    one, again, other = stage.make_batch(3, WHOLE), stage.make_batch(3, WHOLE), stage.make_batch(4, WHOLE)
    assert torch.equal(one.z, again.z) and not torch.equal(one.noise, other.noise)
    slices = (one.t * len(one.t)).long().sort().values
    assert slices.tolist() == list(range(8)), "one time in each slice"


def test_a_batch_with_a_time_shift_moves_the_same_times_towards_noise(
    stage: FlowStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = stage.make_batch(3, WHOLE)
    monkeypatch.setattr(stage, "settings", replace(stage.settings, time_shift=3.0))
    moved = stage.make_batch(3, WHOLE)
    assert torch.equal(moved.noise, plain.noise) and torch.equal(moved.has_plan, plain.has_plan)
    assert torch.equal(moved.t, shifted_time(plain.t, 3.0)) and bool((moved.t >= plain.t).all())


def test_weighted_velocity_divides_by_the_expected_weight() -> None:
    t = (torch.arange(100_000) + 0.5) / 100_000
    assert loss_weight(t).double().mean().item() == pytest.approx(MEAN_LOSS_WEIGHT, abs=1e-6)
    target = torch.zeros(2, 1, 1, 1)
    velocity = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    weight = torch.tensor([MEAN_LOSS_WEIGHT, 0.0])
    assert weighted_velocity(velocity, target, weight).item() == pytest.approx(0.5)
    assert weighted_velocity(velocity, target, weight.flip(0)).item() == pytest.approx(4.5)


def test_plan_similarity_is_a_mean_over_samples() -> None:
    plan = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
    each = torch.stack([plan_similarity(one[None]) for one in plan])
    assert torch.allclose(plan_similarity(plan), each.mean())
