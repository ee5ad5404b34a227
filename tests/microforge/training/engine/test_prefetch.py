"""Workers and minutes: the same data whoever prepares it, and a schedule laid over the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from microforge.data.world.image_source import SceneSource
from microforge.tokenizer import PromptTokenizer
from microforge.training.caches.encoder import LatentEncoder
from microforge.training.caches.latents import load_or_build
from microforge.training.engine.batch_shard import BatchShard
from microforge.training.engine.muon import BatchedMuon
from microforge.training.engine.prefetch import Prefetcher
from microforge.training.engine.time_budget import TimeBudget
from microforge.vae import MicroForgeVAE


def _prepare(step: int, shard: BatchShard) -> Tensor:
    return torch.tensor([step, shard.index, shard.count])


def test_prefetcher_returns_the_same_with_and_without_workers() -> None:
    prefetcher = Prefetcher(_prepare, workers=2, pieces=2)
    order = [
        (0, BatchShard(0, 2)),
        (0, BatchShard(1, 2)),
        (1, BatchShard(0, 2)),
        (5, BatchShard(1, 2)),
        (6, BatchShard(0, 2)),
    ]
    for step, shard in order:  # the fourth is out of turn: a resumed run
        assert torch.equal(prefetcher(step, shard), _prepare(step, shard))


def test_prefetcher_continues_by_whole_steps_in_a_process_of_several() -> None:
    prefetcher = Prefetcher(_prepare, workers=1, pieces=1)
    first = prefetcher(3, BatchShard(1, 2))
    expected = prefetcher._results
    assert torch.equal(first, _prepare(3, BatchShard(1, 2))) and torch.equal(
        prefetcher(4, BatchShard(1, 2)), _prepare(4, BatchShard(1, 2))
    )
    assert prefetcher._results is expected  # nothing was started anew


def test_latents_are_the_same_with_workers(tmp_path: Path, mini: Any) -> None:
    torch.manual_seed(0)
    vae = MicroForgeVAE(mini.MINI.vae).eval()
    source, tokenizer = SceneSource(), PromptTokenizer.load()
    encoder, plan = LatentEncoder(vae, tokenizer, (64, 64), 16, "cpu"), source.plan(1100, 2, 0)
    caches = [
        load_or_build(tmp_path / name, encoder, source, plan, Console(quiet=True), workers)
        for name, workers in (("alone", 0), ("helped", 2))
    ]
    assert torch.equal(caches[0].captions, caches[1].captions)
    assert torch.equal(caches[0].latents, caches[1].latents)


def test_a_cache_of_another_stage_is_used_when_it_matches(tmp_path: Path, mini: Any) -> None:
    torch.manual_seed(0)
    vae, source, tokenizer = MicroForgeVAE(mini.MINI.vae).eval(), SceneSource(), PromptTokenizer.load()
    plan, console = source.plan(4, 1, 0), Console(quiet=True)
    there, here = tmp_path / "there", tmp_path / "here"
    encoder = LatentEncoder(vae, tokenizer, (64, 64), 16, "cpu")
    built = load_or_build(there, encoder, source, plan, console)
    reused = load_or_build(here, encoder, source, plan, console, 0, [there])
    assert torch.equal(built.latents, reused.latents) and not here.exists()
    other = load_or_build(here, encoder, source, source.plan(5, 1, 0), console, 0, [there])
    assert len(other.latents) == 5 and here.exists()


def test_budget_lays_the_steps_over_the_minutes_and_settles_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("microforge.training.engine.time_budget.time.monotonic", lambda: now)
    plan, steps = TimeBudget(2.0, decay_fraction=0.6, start=0), 100_000
    settled = []
    for done in range(1, 2000):
        now += 2.0 if done < 30 else 0.1  # a minute of compiling that would leave 60 steps
        steps = plan.steps(done, steps)
        settled.append(steps)
        if done >= steps:
            break
    assert 600 < done < 660 and 119.0 < now < 121.0
    assert len(set(settled[int(0.6 * done) :])) == 1


def test_budget_of_a_run_too_slow_to_estimate_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("microforge.training.engine.time_budget.time.monotonic", lambda: now)
    plan = TimeBudget(1.0, 0.3, start=7)
    now = 59.0
    assert plan.steps(8, 100) == 100
    now = 61.0
    assert plan.steps(9, 100) == 9


def test_batched_muon_is_torchs_muon() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8), (8, 8), (24, 8), (8, 24), (8, 8)]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    pairs = []
    for kind in (torch.optim.Muon, BatchedMuon):
        parameters = [torch.nn.Parameter(value.clone()) for value in values]
        pairs.append(
            (parameters, kind(parameters, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
        )
    for _ in range(3):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        for parameters, optimizer in pairs:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()  # type: ignore[no-untyped-call]
    for one, other in zip(pairs[0][0], pairs[1][0], strict=True):
        assert torch.allclose(one, other, atol=2e-3)
    for one, other in zip(pairs[0][0], pairs[1][0], strict=True):
        states = [pair[1].state[parameter] for pair, parameter in zip(pairs, (one, other), strict=True)]
        assert torch.allclose(states[0]["momentum_buffer"], states[1]["momentum_buffer"], atol=1e-6)
