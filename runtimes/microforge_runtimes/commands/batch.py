"""The images of one call of ``mf-generate``: which prompt, which seed, which file."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from microforge.errors import OutputError, SpecError
from microforge.io.atomic import check_output
from microforge.noise import check_seed

#: More images than this in one call would be a mistake in the command.
MAX_IMAGES = 1000
#: Longer rows of a contact sheet are broken.
MAX_COLUMNS = 16


@dataclass(frozen=True)
class Item:
    """One image to generate. ``prompt`` None is no prompt."""

    prompt: str | None
    seed: int
    path: Path


@dataclass(frozen=True)
class Batch:
    """All images of a call, prompt by prompt, and their contact sheet; None for a single image.

    ``columns`` of the sheet: a row per prompt where there are several; None leaves the shape to the sheet.
    """

    items: tuple[Item, ...]
    sheet: Path | None = None
    columns: int | None = None


def plan_batch(prompts: Sequence[str | None], seed: int, count: int, out: Path) -> Batch:
    """``count`` images of every prompt with the seeds ``seed``, ``seed`` + 1, ...

    A single image is written to ``out``; several are numbered beside it: NAME-0001.png, ..., NAME-sheet.png.

    Raises:
        SpecError: for more than ``MAX_IMAGES``, or a seed outside 64 bits.
    """
    total = len(prompts) * count
    if total > MAX_IMAGES:
        raise SpecError(f"{len(prompts)} prompts with {count} images each make {total}; at most {MAX_IMAGES}")
    check_seed(seed)
    if seed + count > 2**64:
        raise SpecError(f"the seeds are {seed} to {seed + count - 1}; allowed: 0 to {2**64 - 1}")
    if total == 1:
        return Batch((Item(prompts[0], seed, out),))
    pairs = [(prompt, seed + index) for prompt in prompts for index in range(count)]
    items = (
        Item(prompt, own_seed, _beside(out, f"{number:04d}"))
        for number, (prompt, own_seed) in enumerate(pairs, 1)
    )
    rows_of_prompts = len(prompts) > 1 and 1 < count <= MAX_COLUMNS
    return Batch(tuple(items), _beside(out, "sheet"), count if rows_of_prompts else None)


def check_paths(batch: Batch, force: bool, preview: bool = False) -> None:
    """Refuse a batch of which a file could not be written.

    Raises:
        OutputExistsError, OutputError: as ``check_output``; also for a folder's name.
    """
    for path in (*(item.path for item in batch.items), *(() if batch.sheet is None else (batch.sheet,))):
        check_output(path, force)
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder")
    if preview and not force:
        for item in batch.items:
            for earlier in sorted(item.path.parent.glob(f"{glob.escape(item.path.stem)}-step*.png")):
                check_output(earlier)


def preview_path(out: Path, step: int) -> Path:
    """Where the preview of a ``step``, from 1 on, of the image ``out`` is written."""
    return out.with_name(f"{out.stem}-step{step}.png")


def clean_prompt(prompt: str) -> str:
    """``prompt`` with bytes that are not UTF-8 replaced, as the tokenizer does it."""
    return prompt.encode("utf-8", "replace").decode("utf-8")


def _beside(out: Path, addition: str) -> Path:
    return out.with_name(f"{out.stem}-{addition}{out.suffix}")
