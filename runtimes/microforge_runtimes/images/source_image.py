"""From a user's files to a drawing's source, and from the drawing back to an image of the user's own size.

What stays as it was: every pixel outside a mask, bit for bit; for ``edit`` with ``composite`` every pixel without a
visible change; alpha always, but where ``inpaint`` drew, which is opaque.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from microforge.bundle.manifest import Task
from microforge.errors import SpecError
from microforge_runtimes.images.canvas import (
    Mask,
    Place,
    best_canvas,
    changed,
    enlarged,
    fitted,
    mask_on_canvas,
    on_canvas,
    restored,
    unscaled,
)
from microforge_runtimes.images.image_file import Picture, Pixels, read_mask, read_picture
from microforge_runtimes.images.resampling import FACTORS, OVERSAMPLING, consistent, shrunk
from microforge_runtimes.images.tiling import Tile, joined, tiles
from microforge_runtimes.sampler import Floats, from_pixels, to_pixels


@dataclass(frozen=True)
class Work:
    """What a user wants drawn from a source: ``mask`` (h, w) of inpaint or edit, ``factor`` of super-resolve."""

    task: Task
    source: Picture
    mask: Mask | None = None
    factor: int = 1
    composite: bool = False

    @property
    def magnification(self) -> int:
        """How much larger a drawing is than what it shows of the source."""
        return self.factor * OVERSAMPLING if self.task == "super-resolve" else 1


@dataclass(frozen=True)
class Prepared:
    """``source`` (1, 3, H, W), divided by the magnification for super-resolve, ``mask`` (1, 1, H, W) or None, and their place."""

    source: Floats
    mask: Floats | None
    place: Place


def check_words(
    task: str, source: Path | None, mask: Path | None, factor: int | None, composite: bool, prompt: str | None
) -> None:
    """Refuse options that do not go together.

    Raises:
        SpecError: names the option and the task.
    """
    if task == "generate" and (source or mask):
        raise SpecError("--source and --mask do not belong to --task generate")
    if task != "generate" and source is None:
        what = (
            "--mask needs --source, the image that it belongs to"
            if mask
            else f"--task {task} needs --source FILE"
        )
        raise SpecError(what)
    if task == "inpaint" and mask is None:
        raise SpecError("--task inpaint needs --mask FILE, white where it is to draw")
    if mask is not None and task == "super-resolve":
        raise SpecError("--mask belongs to --task inpaint and edit, not to super-resolve")
    if factor is not None and task != "super-resolve":
        raise SpecError(f"--factor belongs to --task super-resolve, not to {task}")
    if factor is not None and factor not in FACTORS:
        raise SpecError(f"--factor is {factor}; allowed: {', '.join(map(str, FACTORS))}")
    if composite and task != "edit":
        raise SpecError(f"--composite belongs to --task edit, not to {task}")
    if composite and mask is not None:
        raise SpecError("--composite finds by itself what --mask says; give one of them")
    if prompt is None and task in ("generate", "edit"):
        raise SpecError(f"Missing argument PROMPT: --task {task} needs words")


def read_work(task: Task, source: Path, mask: Path | None, factor: int | None, composite: bool) -> Work:
    """Read the files of options that ``check_words`` let pass.

    Raises:
        DataError: for a file that cannot be used; see ``picture``.
    """
    picture = read_picture(source)
    hole = None if mask is None else read_mask(mask, picture.size)
    larger = (factor or FACTORS[0]) if task == "super-resolve" else 1
    return Work(task, picture, hole, larger, composite)


def choose_size(work: Work, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of a model's ``sizes`` (height, width) the one that suits the source best.

    For super-resolve the smallest that holds it, else the largest, which draws it in tiles.
    """
    if work.task != "super-resolve":
        return best_canvas(work.source.size, sizes)
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    height, width = (side * work.magnification for side in work.source.size)
    for size in by_area:
        if height <= size[0] and width <= size[1]:
            return size
    return by_area[-1]


def pieces(work: Work, size: tuple[int, int]) -> tuple[Tile, ...]:
    """The parts of the source that drawings of ``size`` (height, width) are made of: all of it but for super-resolve.

    Raises:
        SpecError: as ``tiles``.
    """
    if work.task != "super-resolve":
        height, width = work.source.size
        return (Tile(slice(0, height), slice(0, width)),)
    return tiles(work.source.size, _window(work, size))


def prepared(work: Work, size: tuple[int, int], tile: Tile) -> Prepared:
    """The source, and mask, as a drawing of ``size`` (height, width) takes them; of super-resolve its ``tile``."""
    if work.task == "super-resolve":
        place = unscaled(tile.size, _window(work, size))
        part = work.source.seen()[tile.rows, tile.columns]
        return Prepared(on_canvas(part, place), None, place)
    place = fitted(work.source.size, size)
    mask = None if work.mask is None else mask_on_canvas(work.mask, place)
    return Prepared(on_canvas(work.source.seen(), place), mask, place)


def _window(work: Work, size: tuple[int, int]) -> tuple[int, int]:
    """How much of the source one drawing of ``size`` shows, (height, width); at least a pixel."""
    return max(1, size[0] // work.magnification), max(1, size[1] // work.magnification)


def enlargement(work: Work, drawn: Iterable[tuple[Tile, Prepared, Pixels]]) -> Pixels:
    """The user's image, (h, w, 3), or (h, w, 4) with alpha, each ``factor`` times larger, from super-resolved tiles.

    They are larger still by ``OVERSAMPLING``: joined, shrunk, and made to agree with the source.
    """
    factor = work.magnification
    parts = (
        (
            tile,
            image[
                ready.place.rows.start * factor : ready.place.rows.stop * factor,
                ready.place.columns.start * factor : ready.place.columns.stop * factor,
            ],
        )
        for tile, ready, image in drawn
    )
    large = shrunk(from_pixels(joined(parts, work.source.size, factor)), OVERSAMPLING)
    colors = to_pixels(consistent(large, from_pixels(work.source.seen()), work.factor))
    alpha = work.source.alpha
    return _with_alpha(colors, None if alpha is None else enlarged(alpha, work.factor))


def finished(work: Work, ready: Prepared, image: Pixels) -> Pixels:
    """The user's image of edit or inpaint, (h, w, 3), or (h, w, 4) with alpha, from the drawing (H, W, 3)."""
    place, source = ready.place, work.source
    result, alpha = restored(image, place), source.alpha
    if work.mask is not None:
        result = np.where(work.mask[..., None], result, source.stored)
        if work.task == "inpaint" and alpha is not None:
            alpha = np.where(work.mask, np.uint8(255), alpha)
    elif work.composite:
        before = np.rint(ready.source[0] * 255.0).astype(np.uint8).transpose(1, 2, 0)
        moved = changed(image, before).astype(np.uint8) * 255
        region = restored(np.repeat(moved[..., None], 3, 2), place)[..., :1] > 127
        result = np.where(region, result, source.stored)
    return _with_alpha(result, alpha)


def _with_alpha(colors: Pixels, alpha: Pixels | None) -> Pixels:
    return np.ascontiguousarray(colors if alpha is None else np.dstack([colors, alpha]))
