"""The data report of a run: one line when it starts, and a file that lists everything that was skipped."""

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
from microforge.training.loop_options import DataOptions

#: Folder of the index files of shards, in the run's folder.
CACHE = "cache"
#: File that lists skipped data, one item per line, in the stage's folder.
SKIPPED = "skipped.txt"


def open_data(data: DataOptions, folder: Path, console: Console, processes: Processes) -> ImageSource:
    """Open the source of ``data``; index files are cached below ``folder``; only the main process shows progress.

    Raises:
        DataError, SpecError: when there is nothing to train on.
    """
    quiet = console if processes.is_main else Console(quiet=True)
    augmentation = Augmentation(data.flip, data.random_crop)
    return open_source(data.data, folder / CACHE, quiet, augmentation)


def report_data(source: ImageSource, folder: Path, console: Console) -> None:
    """Print one line about the data, and one warning about what was skipped.

    Args:
        source: The images.
        folder: The stage's; ``skipped.txt`` there also keeps what earlier calls of a resumed run skipped.
        console: Where to print.
    """
    console.print(source.describe(), markup=False, highlight=False)
    report_skipped(source, folder, console)


def report_skipped(source: ImageSource | TripleSource, folder: Path, console: Console) -> None:
    """Warn about skipped data that is not yet in ``skipped.txt``, and add it there."""
    path = folder / SKIPPED
    known = path.read_text("utf-8").splitlines() if path.is_file() else []
    lines: Mapping[str, Skipped] = {
        f"{printable(item.name)}: {printable(item.reason)}": item for item in source.skipped
    }
    new = [item for line, item in lines.items() if line not in set(known)]
    if new:
        everything = sorted({*known, *lines})
        atomic_bytes(path, "".join(f"{line}\n" for line in everything).encode("utf-8"), force=True)
        console.print(f"warning: {skip_summary(new)} (complete list: {path})", markup=False, highlight=False)
