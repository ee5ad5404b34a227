"""Watching a run: the loss smoothed and guarded, the log, TensorBoard, the progress line.

Terms add up on the device and are read every ``log_every`` steps and before every save: reading one waits for
the GPU. A window that holds anything but numbers ends the run before the weights behind it are saved.
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
from microforge.training.engine.distributed import ALONE, Processes
from microforge.training.engine.state import Standing
from microforge.training.settings import LoopSettings

LOG = "log.jsonl"
#: Steps before a loss that rises is taken for divergence.
PATIENCE = 500


class Watch:
    """Smooths, logs and guards the terms of a run; ``standing`` is what a state keeps of it."""

    def __init__(
        self, folder: Path, loop: LoopSettings, steps: int, samples_per_step: int, standing: Standing,
        processes: Processes = ALONE,
    ) -> None:  # fmt: skip
        self.folder, self.loop, self.steps, self.samples_per_step = folder, loop, steps, samples_per_step
        self.standing, self.processes = standing, processes
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.clock = time.monotonic()
        self.note = ""
        self.board = None
        if processes.is_main:
            self._forget_after(standing.step)
            self.board = open_board(folder, standing.step) if loop.tensorboard else None

    def _forget_after(self, start: int) -> None:
        """Drop log lines of steps that a resumed run will repeat."""
        path = self.folder / LOG
        if path.is_file():
            rows = path.read_text("utf-8").splitlines()
            kept = [row for row in rows if _step_of(row) <= start]
            path.write_text("".join(row + "\n" for row in kept), "utf-8")

    def add(self, step: int, terms: Mapping[str, Tensor]) -> str:
        """Take the terms of step ``step``; the note for the progress line.

        Raises:
            DivergenceError: at the end of a window whose loss is not a number or has left its range.
        """
        for name, value in terms.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        done = step + 1
        self.standing = replace(self.standing, step=done)
        if done % self.loop.log_every == 0 or done % self.loop.save_every == 0 or done == self.steps:
            self._end_window(done)
        return self.note

    def improved(self) -> bool:
        """Whether the score is better than when the best checkpoint was written; it counts as written then."""
        if not self.standing.smoothed < self.standing.best:
            return False
        self.standing = replace(self.standing, best=self.standing.smoothed)
        return True

    def show(self, sheet: Tensor, done: int) -> None:
        """Put a sample sheet (3, H, W) on TensorBoard."""
        if self.board is not None:
            self.board.add_image("samples", sheet, done)

    def close(self) -> None:
        """Write out what TensorBoard still holds back."""
        if self.board is not None:
            self.board.close()

    def _end_window(self, done: int) -> None:
        totals = self.processes.mean(
            torch.stack(list(self.sums.values()))
        ).tolist()  # the one wait for the GPU
        means = {name: total / self.counts[name] for name, total in zip(self.sums, totals, strict=True)}
        if not all(math.isfinite(value) for value in means.values()):
            self._diverged(done, means["loss"])
        score, was = means.get("score", means["loss"]), self.standing.smoothed
        smoothed = score if math.isnan(was) else 0.8 * was + 0.2 * score
        lowest = min(self.standing.lowest, smoothed)
        self.standing = replace(self.standing, smoothed=smoothed, lowest=lowest)
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
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
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
    """The step of a log line; a line cut short by a kill belongs to no step that is kept."""
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def open_board(folder: Path, start: int) -> Any:  # the writer has no types
    """TensorBoard's writer below ``folder``; what it holds of later steps than ``start`` is dropped.

    Raises:
        MissingExtraError: when tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise missing_extra("tensorboard", "train") from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)


def progress_line(console: Console, visible: bool) -> Progress:
    """Steps, time spent and left, loss and samples/s."""
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
