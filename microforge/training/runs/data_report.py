"""What ``mf-train`` says about its data: one line when it starts, and what was left out, in full, on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from microforge.data.edit_examples import TripleSource
from microforge.data.files.image_source import Augmentation
from microforge.data.image_source import ImageSource
from microforge.data.open import open_source
from microforge.data.skipped import Skipped, printable, skip_summary
from microforge.io.atomic import atomic_bytes
from microforge.training.engine.distributed import Processes
from microforge.training.runs.plan import TrainRequest

#: In --out: the index files of shards.
CACHE = "cache"
#: In a stage's folder: everything that was left out of its data, a line each.
SKIPPED = "skipped.txt"


def open_data(request: TrainRequest, console: Console, processes: Processes) -> ImageSource:
    """The source that ``--data`` names; only the main process shows progress.

    Raises:
        DataError, SpecError: when there is nothing to train on.
    """
    here = console if processes.is_main else Console(quiet=True)
    augmentation = Augmentation(request.flip, request.random_crop)
    return open_source(request.data, request.out / CACHE, here, augmentation)


def report_data(source: ImageSource, folder: Path, console: Console) -> None:
    """Print one line about the data, and one warning about what was left out of it.

    Args:
        folder: the stage's; ``skipped.txt`` there keeps what earlier calls of a resumed run found, too.
    """
    console.print(source.describe(), markup=False, highlight=False)
    report_skipped(source, folder, console)


def report_skipped(source: ImageSource | TripleSource, folder: Path, console: Console) -> None:
    """Warn about, and write down, what is not yet in ``skipped.txt``; nothing new is not said again."""
    path = folder / SKIPPED
    before = path.read_text("utf-8").splitlines() if path.is_file() else []
    lines: Mapping[str, Skipped] = {
        f"{printable(item.name)}: {printable(item.reason)}": item for item in source.skipped
    }
    new = [item for line, item in lines.items() if line not in set(before)]
    if new:
        everything = sorted({*before, *lines})
        atomic_bytes(path, "".join(f"{line}\n" for line in everything).encode("utf-8"), force=True)
        console.print(f"warning: {skip_summary(new)} (all of them: {path})", markup=False, highlight=False)
