"""The loop's promises: pieces equal the whole, the discriminator has a step of its own, nothing bad is saved."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from microforge.errors import CheckpointError, DivergenceError
from microforge.training.engine import loop as training_loop
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.loop import BEST, StageDefaults, TrainingRun, train
from microforge.training.engine.state import STATE, RunIdentity, step_generator
from microforge.training.loop_options import LoopSettings
from microforge.training.settings import OptimizerSettings

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot takes longer than all these runs together."""
    monkeypatch.setattr(training_loop, "plot_losses", lambda log, out: None)


class Line(StageDefaults):
    """A stage that fits a line to four points a step; from ``adversarial_from`` on a discriminator learns too."""

    samples_per_step = 4

    def __init__(
        self, adversarial_from: int | None = None, broken_at: int = 10**9, target: float = 3.0
    ) -> None:
        torch.manual_seed(0)
        self.network: nn.Module = nn.Linear(1, 1)
        self.discriminator: nn.Module | None = None if adversarial_from is None else nn.Linear(1, 1)
        self.discriminator_optimizer = OptimizerSettings(1e-2)
        self.adversarial_from, self.broken_at, self.target = adversarial_from or 0, broken_at, target
        self.calls: list[str] = []

    def loss(self, step: int, shard: BatchShard = WHOLE) -> Mapping[str, Tensor]:
        self.calls.append(f"loss {step} {shard.index}/{shard.count}")
        x = torch.rand(4, 1, generator=step_generator(0, step))[shard.rows(4)]
        factor = float("nan") if step >= self.broken_at else 1.0
        return {"loss": (self.network(x) - self.target * x).square().mean() * factor}

    def discriminator_loss(self, step: int, shard: BatchShard = WHOLE) -> Mapping[str, Tensor]:
        self.calls.append(f"discriminator {step} {shard.index}/{shard.count}")
        if step < self.adversarial_from or self.discriminator is None:
            return {}
        return {"loss": self.discriminator(torch.ones(1, 1)).square().mean(), "real": torch.ones(())}

    def sheet(self, ema: nn.Module) -> Tensor:
        return torch.zeros(3, 8, 8)

    def write(self, folder: Path, ema: nn.Module) -> None:
        folder.mkdir(exist_ok=True, parents=True)
        assert isinstance(ema, nn.Linear)
        (folder / "config.json").write_text("{}")
        (folder / "weight.txt").write_text(repr(ema.weight.item()))


def _run(folder: Path, steps: int, save_every: int = 1, accumulate: int = 1) -> TrainingRun:
    settings = LoopSettings(log_every=1, save_every=save_every, sample_every=100, accumulate=accumulate)
    identity = RunIdentity("vae", "nano", 0)
    return TrainingRun(
        folder, folder / "checkpoint", identity, steps, OptimizerSettings(1e-2, warmup_steps=1), settings
    )


def _log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def test_train_accumulated_micro_batches_equal_the_whole_batch(tmp_path: Path) -> None:
    whole, split = Line(), Line()
    train(_run(tmp_path / "whole", 5), whole, QUIET)
    train(_run(tmp_path / "split", 5, accumulate=4), split, QUIET)
    assert split.calls[:4] == [f"loss 0 {k}/4" for k in range(4)]
    for one, two in zip(whole.network.parameters(), split.network.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)
    for one_row, two_row in zip(_log(tmp_path / "whole"), _log(tmp_path / "split"), strict=True):
        assert one_row["loss"] == pytest.approx(two_row["loss"], abs=2e-6)
        assert one_row["grad_norm"] == pytest.approx(two_row["grad_norm"], rel=1e-4)


def test_train_gives_the_discriminator_its_step_after_the_network_and_keeps_it(tmp_path: Path) -> None:
    stage = Line(adversarial_from=2)
    train(_run(tmp_path, 2), stage, QUIET)
    fresh = Line(adversarial_from=2).discriminator
    assert stage.discriminator is not None and fresh is not None
    assert stage.calls == ["loss 0 0/1", "discriminator 0 0/1", "loss 1 0/1", "discriminator 1 0/1"]
    assert torch.equal(stage.discriminator.state_dict()["weight"], fresh.state_dict()["weight"]), (
        "not its phase yet"
    )
    assert "discriminator_loss" not in _log(tmp_path)[-1]
    train(_run(tmp_path, 4), stage, QUIET)
    state = load_file(tmp_path / STATE)
    assert not torch.equal(state["adversary.weight"], fresh.state_dict()["weight"])
    assert float(state["adversary_optimizer.0.step"]) == 2.0, "its optimizer counts its own updates"
    assert {"discriminator_loss", "discriminator_real"} <= set(_log(tmp_path)[-1])


def test_train_resumed_with_a_discriminator_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    train(_run(tmp_path / "whole", 6), Line(adversarial_from=1), QUIET)
    # the plan of six steps from the start, so that the rate falls at the same steps
    stage = Line(adversarial_from=1, broken_at=4)
    with pytest.raises(DivergenceError):
        train(_run(tmp_path / "broken", 6), stage, QUIET)
    train(_run(tmp_path / "broken", 6), Line(adversarial_from=1), QUIET)
    first, second = (load_file(tmp_path / name / STATE) for name in ("whole", "broken"))
    assert first.keys() == second.keys() and "adversary_optimizer.0.exp_avg" in first
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert _log(tmp_path / "whole")[-1]["loss"] == _log(tmp_path / "broken")[-1]["loss"]


def test_train_takes_a_discriminator_that_an_older_state_does_not_have(tmp_path: Path) -> None:
    train(_run(tmp_path, 2), Line(), QUIET)
    stage = Line(adversarial_from=1)
    train(_run(tmp_path, 4), stage, QUIET)
    assert "adversary.weight" in load_file(tmp_path / STATE)


def test_train_stops_at_nan_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"before step 4 \(loss nan\); the last good state is in"):
        train(_run(tmp_path, 9), Line(broken_at=3), QUIET)
    assert all(bool(torch.isfinite(value).all()) for value in load_file(tmp_path / STATE).values())


def test_train_finds_nan_before_a_save_between_two_log_points(tmp_path: Path) -> None:
    run = _run(tmp_path, 9, save_every=2)
    run = replace(run, loop=replace(run.loop, log_every=50))
    with pytest.raises(DivergenceError, match="before step 4"):
        train(run, Line(broken_at=2), QUIET)
    assert all(bool(torch.isfinite(value).all()) for value in load_file(tmp_path / STATE).values())
    assert [row["step"] for row in _log(tmp_path)] == [2], "an interval ends at every save"


def test_train_writes_best_only_when_the_loss_is_lower(tmp_path: Path) -> None:
    train(_run(tmp_path, 3), Line(), QUIET)
    best = (tmp_path / BEST / "weight.txt").read_text()
    train(_run(tmp_path, 6), Line(target=-9.0), QUIET)  # the loss jumps up: the best stays
    assert (tmp_path / BEST / "weight.txt").read_text() == best
    assert (tmp_path / "checkpoint" / "weight.txt").read_text() != best
    train(replace(_run(tmp_path, 7), setting="256x256"), Line(target=-9.0), QUIET)
    assert (tmp_path / BEST / "weight.txt").read_text() != best, "another size starts a new comparison"


def test_train_refuses_the_state_of_another_run(tmp_path: Path) -> None:
    train(_run(tmp_path, 1), Line(), QUIET)
    other = _run(tmp_path, 2)
    for change, says in (({"seed": 1}, "seed 0, not 1"), ({"optimizer": "muon"}, "'adamw', not 'muon'")):
        with pytest.raises(CheckpointError, match=says):
            train(replace(other, identity=replace(other.identity, **change)), Line(), QUIET)
    train(other, Line(), QUIET)
    with pytest.raises(CheckpointError, match="another VAE"):
        train(replace(other, identity=replace(other.identity, encoder="abc")), Line(), QUIET)


@pytest.mark.parametrize(
    ("save_every", "says"), [(2, "vae: the state of step 2 is kept in"), (5, "vae: it was too early")]
)
def test_train_says_which_state_is_kept_when_it_is_interrupted(
    tmp_path: Path, save_every: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, console = Line(), Console(record=True, file=io.StringIO())
    loss = stage.loss

    def interrupted(step: int, shard: BatchShard) -> Mapping[str, Tensor]:
        if step == 3:
            raise KeyboardInterrupt
        return loss(step, shard)

    monkeypatch.setattr(stage, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(_run(tmp_path, 9, save_every=save_every), stage, console)
    assert says in console.export_text()


def test_train_sweeps_away_what_a_killed_save_left(tmp_path: Path) -> None:
    train(_run(tmp_path, 1), Line(), QUIET)
    (tmp_path / "samples").mkdir(exist_ok=True)
    for name in (STATE, "best", "0000001.png"):  # the sheet of a step that is not repeated
        work = tmp_path / ("samples" if name.endswith("png") else "") / f".{name}.01234567"
        (work / "new").mkdir(parents=True)
        (work / "lock").write_text(name)  # of a process that has ended: nobody holds it
    train(_run(tmp_path, 2), Line(), QUIET)
    assert not list(tmp_path.rglob(".*"))
