"""--dry-run: bytes that are counted without computing anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from microforge import layers
from microforge.tokenizer import PromptTokenizer
from microforge.training.engine.batch_shard import WHOLE
from microforge.training.runs.memory_estimate import PROBE, LiveBytes, MemoryFootprint, footprint
from microforge.training.runs.plan import plan_stage
from microforge.training.runs.stage_run import estimate_stage
from microforge.training.settings import VAESettings
from microforge.training.stages.vae import VAEStage


def test_live_bytes_follow_tensors_as_they_come_and_go() -> None:
    with LiveBytes() as live:
        first = torch.zeros(1000)
        view = first[10:].reshape(2, 495)
        assert live.now == 4000, "a view has no bytes of its own"
        second = view + 1.0
        assert live.now == 4000 + 3960
        del first, view
        assert live.now == 3960 and live.peak == 7960
        del second
    assert live.now == 0


def test_footprint_of_a_flow_counts_weights_moments_and_activations(tmp_path: Path, mini: Any) -> None:
    plan = plan_stage(mini.request(tmp_path, "flow"), mini.MINI, (64, 64))
    needs = footprint(plan)
    assert needs.state == 4 * (4 * needs.trained + needs.frozen), (
        "weights, EMA and two moments; the VAE's weights"
    )
    less = footprint(replace(plan, loop=replace(plan.loop, checkpoint_blocks=True)))
    assert less.sample < 0.8 * needs.sample, "blocks are run twice instead of being stored"
    with_teacher = footprint(plan, teacher=mini.MINI)
    assert with_teacher.trained == needs.trained
    assert with_teacher.frozen == needs.frozen + needs.trained


def test_footprint_sample_is_what_a_real_step_keeps_alive(
    tmp_path: Path, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_stage(mini.request(tmp_path, "vae"), mini.MINI, (64, 64))
    assert isinstance(plan.settings, VAESettings)
    settings = replace(plan.settings, batch=PROBE, adversarial=0.0)
    plan = replace(plan, settings=settings)
    stage = VAEStage(plan.spec, settings, plan.loop, plan.size, PromptTokenizer.load())
    images = stage._batch(0, WHOLE)  # made beforehand: what rendering takes on the way is not the step's
    monkeypatch.setattr(stage, "_batch", lambda step, shard: images)
    with LiveBytes([stage.network]) as live:
        stage.loss(0)["loss"].backward()  # type: ignore[no-untyped-call]
    assert footprint(plan).sample == pytest.approx(live.peak / PROBE, rel=0.02)


def test_largest_batch_is_the_rest_of_the_memory_over_one_sample() -> None:
    needs = MemoryFootprint(trained=1, frozen=0, state=100, fixed=50, sample=10)
    assert needs.largest_batch(memory=199) == 4
    assert needs.largest_batch(memory=120) == 0


def test_dry_run_estimates_a_stage_and_writes_nothing(tmp_path: Path, mini: Any, capsys: Any) -> None:
    estimate = estimate_stage(mini.request(tmp_path / "run", "flow", accumulate=2, bf16=True))
    values, needs = estimate.values(), estimate.footprint
    assert values["micro_batch"] == 2 and values["size"] == [64, 64]
    assert values["total_bytes"] == needs.state + needs.fixed + 2 * needs.sample
    Console().print(estimate.table())
    assert "largest micro-batch in 16 GB" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    place = layers.position_features(2, 2, 64, 1, torch.device("cpu"))
    assert type(place) is torch.Tensor, "no fake constant is left in a cache"
