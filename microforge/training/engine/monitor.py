"""The monitor of a run: smoothed loss, divergence check, log file, TensorBoard and progress line.

Loss terms are summed on the device and read every ``log_every`` steps and before every save, because reading one blocks
until the GPU is done. An interval with a term that is not finite stops the run, so that its weights are never saved.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from microforge.errors import DivergenceError, missing_extra
from microforge.io.atomic import atomic_bytes, reporting_writes
from microforge.training.engine.distributed import ALONE, Processes
from microforge.training.engine.state import RunProgress
from microforge.training.loop_options import LoopSettings

LOG = "log.jsonl"
#: Steps before a rising loss counts as divergence.
PATIENCE = 500


class Monitor:
    """Smooths, logs and checks the loss terms of a run; ``progress`` is what the saved state keeps of it."""

    def __init__(
        self,
        folder: Path,
        loop: LoopSettings,
        steps: int,
        samples_per_step: int,
        progress: RunProgress,
        processes: Processes = ALONE,
    ) -> None:
        """Open the log, and TensorBoard where ``loop`` asks for it."""
        self.folder, self.loop, self.steps, self.samples_per_step = folder, loop, steps, samples_per_step
        self.progress, self.processes = progress, processes
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.clock = time.monotonic()
        self.note = ""
        self.board = None
        if processes.is_main:
            self._drop_log_after(progress.step)
            self.board = open_board(folder, progress.step) if loop.tensorboard else None

    def _drop_log_after(self, start: int) -> None:
        """Drop the log lines of steps that a resumed run repeats."""
        path = self.folder / LOG
        if path.is_file():
            rows = path.read_text("utf-8").splitlines()
            kept = [row for row in rows if _step_of(row) <= start]
            if kept != rows:
                atomic_bytes(path, "".join(row + "\n" for row in kept).encode("utf-8"), force=True)

    def add(self, step: int, terms: Mapping[str, Tensor]) -> str:
        """Add the terms of step ``step``; return the note for the progress line.

        Raises:
            DivergenceError: at the end of an interval whose loss is not finite or has left its range.
        """
        for name, value in terms.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        done = step + 1
        self.progress = replace(self.progress, step=done)
        if done % self.loop.log_every == 0 or done % self.loop.save_every == 0 or done == self.steps:
            self._end_interval(done)
        return self.note

    def improved(self) -> bool:
        """Whether the score is lower than at the last best checkpoint; if so, the new score is recorded as the best."""
        if not self.progress.smoothed < self.progress.best:
            return False
        self.progress = replace(self.progress, best=self.progress.smoothed)
        return True

    def show(self, sheet: Tensor, done: int) -> None:
        """Write a sample sheet (3, H, W) to TensorBoard."""
        if self.board is not None:
            self.board.add_image("samples", sheet, done)

    def close(self) -> None:
        """Flush and close TensorBoard."""
        if self.board is not None:
            self.board.close()

    def _end_interval(self, done: int) -> None:
        totals = self.processes.mean(
            torch.stack(list(self.sums.values()))
        ).tolist()  # the only wait for the GPU
        means = {name: total / self.counts[name] for name, total in zip(self.sums, totals, strict=True)}
        if not all(math.isfinite(value) for value in means.values()):
            self._diverged(done, means["loss"])
        score, previous = means.get("score", means["loss"]), self.progress.smoothed
        smoothed = score if math.isnan(previous) else 0.8 * previous + 0.2 * score
        lowest = min(self.progress.lowest, smoothed)
        self.progress = replace(self.progress, smoothed=smoothed, lowest=lowest)
        if done > PATIENCE and smoothed > 5.0 * abs(lowest) + 1.0:
            self._diverged(done, means["loss"])
        seconds = max(time.monotonic() - self.clock, 1e-9)
        rate = self.counts["loss"] * self.samples_per_step / seconds
        if self.processes.is_main:
            self._log(done, rate, means)
        self.note = f"loss {means['loss']:.4f}  {rate:.0f} samples/s"
        self.sums, self.counts, self.clock = {}, {}, time.monotonic()

    def _log(self, done: int, rate: float, means: Mapping[str, float]) -> None:
        row = {"step": done, "samples_per_s": round(rate, 1), **{k: round(v, 6) for k, v in means.items()}}
        path = self.folder / LOG
        with reporting_writes(path), path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        if self.board is not None:
            for name, value in row.items():
                if name != "step":
                    self.board.add_scalar(name, value, done)

    def _diverged(self, done: int, loss: float) -> NoReturn:
        self.close()
        raise DivergenceError(
            f"training diverged before step {done} (loss {loss:.4g}); the last good state is in {self.folder}"
        )


def _step_of(row: str) -> float:
    """The step of a log line; infinity for a line that a kill cut short, so that it is dropped."""
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def open_board(folder: Path, start: int) -> Any:  # the writer is untyped
    """The TensorBoard writer of a run; events of later steps than ``start`` are purged.

    Raises:
        MissingExtraError: when tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise missing_extra("tensorboard", "train") from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)


def progress_line(console: Console, visible: bool) -> Progress:
    """A progress bar with steps, elapsed and remaining time, loss and samples per second."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not visible,
    )
