"""The monitor: intervals, the log, TensorBoard, divergence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from microforge.errors import DivergenceError
from microforge.training.engine.distributed import Processes
from microforge.training.engine.monitor import LOG, Monitor
from microforge.training.engine.plots import plot_losses
from microforge.training.engine.state import RunProgress
from microforge.training.loop_options import LoopSettings

LOOP = LoopSettings(log_every=3, save_every=100)


def _monitor(
    folder: Path, steps: int = 1000, loop: LoopSettings = LOOP, progress: RunProgress | None = None
) -> Monitor:
    return Monitor(folder, loop, steps, 4, progress or RunProgress())


def _terms(loss: float, **more: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in {"loss": loss, **more}.items()}


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text("utf-8").splitlines()]


def test_monitor_logs_means_of_intervals_each_term_over_the_steps_that_had_it(tmp_path: Path) -> None:
    monitor = _monitor(tmp_path, steps=5)
    for step, loss in enumerate((1.0, 2.0, 3.0, 4.0, 6.0)):
        note = monitor.add(step, _terms(loss) if step < 2 else _terms(loss, discriminator_loss=0.5))
    rows = _rows(tmp_path)
    assert [row["step"] for row in rows] == [3, 5], "the last interval ends with the run"
    assert [row["loss"] for row in rows] == [2.0, 5.0] and rows[0]["discriminator_loss"] == 0.5
    assert monitor.progress.smoothed == pytest.approx(0.8 * 2.0 + 0.2 * 5.0) and "loss 5.0000" in note


def test_monitor_reads_terms_only_at_the_end_of_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    plain = Processes.mean

    def mean(self: Processes, value: Tensor) -> Tensor:
        reads.append(value.numel())
        return plain(self, value)

    monkeypatch.setattr(Processes, "mean", mean)
    monitor = _monitor(tmp_path)
    for step in range(6):
        monitor.add(step, _terms(1.0, psnr=20.0, kl=3.0))
    assert reads == [3, 3], "one per interval, of all its terms"


def test_monitor_judges_by_the_score_where_a_stage_gives_one(tmp_path: Path) -> None:
    monitor = _monitor(tmp_path)
    assert not monitor.improved(), "nothing is known yet"
    for step in range(3):
        monitor.add(step, _terms(9.0, score=2.0))
    assert monitor.progress.smoothed == 2.0 and monitor.improved() and not monitor.improved()


def test_monitor_drops_the_log_lines_that_a_resumed_run_repeats(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (3, 6, 9)]
    (tmp_path / LOG).write_text("\n".join(lines) + '\n{"step": 1', "utf-8")  # the kill cut the last one short
    _monitor(tmp_path, progress=RunProgress(step=6))
    assert [row["step"] for row in _rows(tmp_path)] == [3, 6]


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_monitor_stops_at_any_term_that_is_no_number(tmp_path: Path, bad: str) -> None:
    monitor = _monitor(tmp_path)
    monitor.add(0, _terms(1.0, grad_norm=float(bad)))
    monitor.add(1, _terms(1.0, grad_norm=1.0))
    with pytest.raises(DivergenceError, match=f"before step 3.*the last good state is in {tmp_path}"):
        monitor.add(2, _terms(1.0, grad_norm=1.0))


def test_monitor_stops_when_the_loss_has_left_its_range(tmp_path: Path) -> None:
    monitor = _monitor(tmp_path, progress=RunProgress(step=600, smoothed=1.0, lowest=1.0))
    with pytest.raises(DivergenceError, match="loss 500"):
        for step in range(600, 606):
            monitor.add(step, _terms(500.0))


def test_tensorboard_gets_terms_and_sheets_and_forgets_later_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop = LoopSettings(log_every=1, save_every=100, tensorboard=True)
    for first, loss in ((0, 1.0), (2, 5.0)):  # the second run goes on from step 2 and repeats step 3
        monitor = _monitor(tmp_path, 9, loop, RunProgress(step=first))
        for step in range(first, 3):
            monitor.add(step, _terms(loss))
        monitor.show(torch.zeros(3, 8, 8), 3)
        monitor.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 1.0), (3, 5.0)]
    assert "samples" in events.Tags()["images"]


def test_plot_losses_plots_every_term_even_one_that_came_late(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "samples_per_s": 3.0, "loss": 2.0},
        {"step": 2, "samples_per_s": 3.0, "loss": 1.0, "kl": 0.5},
    ]
    (tmp_path / LOG).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    plot_losses(tmp_path / LOG, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000
