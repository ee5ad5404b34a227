"""The progress of ``mf-generate`` on stderr: steps of an image, and images of a batch."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from microforge_runtimes.sampler import Step


class GenerationProgress:
    """Bars that appear with the first step, so that an error before it stays one line."""

    def __init__(self, images: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._images = None if images == 1 else self._progress.add_task("images", total=images)
        self._steps = self._progress.add_task("sampling", total=None)

    def step(self, step: Step) -> None:
        """Show one more step of the current image."""
        self._progress.start()
        self._progress.update(self._steps, completed=step.index, total=step.steps)

    def image_done(self) -> None:
        """Show one more image of the batch."""
        if self._images is not None:
            self._progress.advance(self._images)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()
