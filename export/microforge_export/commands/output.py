"""How ``mf-export`` shows progress and results: a bar and tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from microforge.io.console import print_json, say

if TYPE_CHECKING:
    from rich.console import RenderableType

    from microforge_export.build.stages import ProgressCallback


def print_result(json: bool, values: Mapping[str, Any], table: RenderableType) -> None:
    """Print ``values`` as JSON, or else ``table``, to stdout."""
    if json:
        print_json(values)
        return
    from rich.console import Console

    Console().print(table)


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """Yield a progress callback: a bar on the stderr of a terminal, one line per stage elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda number, count, name: say(f"[{number}/{count}] {name}")
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("")
        yield lambda number, count, name: bars.update(
            bar, completed=number - 1, total=count, description=name
        )


@contextmanager
def byte_progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback for (bytes done, bytes in all): a bar on the stderr of a terminal, every tenth elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task(description)
            yield lambda done, total: bars.update(bar, completed=done, total=total)
        return
    shown = -1

    def report(done: int, total: int) -> None:
        nonlocal shown
        tenth = done * 10 // max(total, 1)
        if tenth > shown:
            shown = tenth
            say(f"{description}: {done / 1e6:.1f} of {total / 1e6:.1f} MB")

    yield report
