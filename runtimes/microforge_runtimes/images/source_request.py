"""From a user's source image to a model's inputs, and from the model's image back to one of the user's own size.

What is preserved: every pixel outside a mask, bit for bit and in the colour profile that it has; with ``composite`` every
pixel without a visible change; alpha always, but where a task filled the mask without seeing what was there: that is opaque.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from microforge.bundle.sampling import SourceEntry, Task
from microforge.errors import SpecError
from microforge_runtimes.images.alpha import (
    color_range,
    enlarge_alpha,
    enlarge_colors,
    off_white,
    replace_faint,
    without_rim,
)
from microforge_runtimes.images.canvas import (
    Place,
    best_canvas,
    changed,
    fitted,
    mask_on_canvas,
    on_canvas,
    restored,
    unscaled,
)
from microforge_runtimes.images.image_file import (
    ImageInput,
    Mask,
    Pixels,
    SourceImage,
    read_mask,
    read_source_image,
)
from microforge_runtimes.images.resampling import consistent, shrunk
from microforge_runtimes.images.tiling import Tile, joined, tiles
from microforge_runtimes.sampler import Floats, from_pixels, to_pixels


@dataclass(frozen=True)
class SourceRequest:
    """What a task is to make of a source image.

    Attributes:
        task: name of the task.
        source: the image.
        mask: (h, w), where it may change; None for everywhere.
        factor: how many times larger the result is.
        composite: whether pixels without a visible change stay the source's own.
        oversampling: how many times larger still the model's image is, for a task that enlarges; 0 for the others.
        fills_mask: whether the model does not see the source where the mask is, so that the result is opaque there.
    """

    task: str
    source: SourceImage
    mask: Mask | None = None
    factor: int = 1
    composite: bool = False
    oversampling: int = 0
    fills_mask: bool = False

    @property
    def enlarges(self) -> bool:
        return self.oversampling > 0

    @property
    def magnification(self) -> int:
        """How much larger the model's image is than its part of the source."""
        return self.factor * self.oversampling if self.enlarges else 1


@dataclass(frozen=True)
class CanvasInputs:
    """``source`` (1, 3, H, W), of a task that enlarges smaller by the magnification, ``mask`` (1, 1, H, W) or None, and their place."""

    source: Floats
    mask: Floats | None
    place: Place


def check_options(
    task: str, tasks: Mapping[str, Task], source: Path | None, mask: Path | None, factor: int | None,
    composite: bool, prompt: str | None,
) -> None:  # fmt: skip
    """Refuse options that do not go together, or not with ``task``, one of a model's ``tasks``.

    Raises:
        SpecError: names the option and the task.
    """
    entry = tasks[task].source
    if entry is None and (source or mask):
        raise SpecError(f"--source and --mask do not belong to --task {task}")
    if entry is not None and source is None:
        what = (
            "--mask needs --source, the image that it belongs to"
            if mask
            else f"--task {task} needs --source FILE"
        )
        raise SpecError(what)
    if entry is not None and entry.mask == "required" and mask is None:
        raise SpecError(f"--task {task} needs --mask FILE, white where the image is to be filled")
    sources = {name: item.source for name, item in tasks.items() if item.source is not None}
    for option, is_set, takers in (
        ("--mask", mask is not None, [name for name, item in sources.items() if item.mask != "none"]),
        ("--factor", factor is not None, [name for name, item in sources.items() if item.enlarge]),
        ("--composite", composite, [name for name, item in sources.items() if _can_composite(item)]),
    ):
        if is_set and task not in takers:
            allowed = f"belongs to --task {' and '.join(takers)}" if takers else "is for other models"
            raise SpecError(f"{option} {allowed}, not to {task}")
    if factor is not None and entry is not None and entry.enlarge and factor not in entry.enlarge.factors:
        raise SpecError(f"--factor is {factor}; allowed: {', '.join(map(str, entry.enlarge.factors))}")
    if composite and mask is not None:
        raise SpecError(
            "--composite finds the changed part by itself, --mask says which it is; give one of them"
        )
    if prompt is None and tasks[task].prompt == "required":
        raise SpecError(f"Missing argument PROMPT: --task {task} needs a prompt")


def _can_composite(entry: SourceEntry) -> bool:
    """Whether results resemble the source everywhere but where they were meant to change."""
    return entry.enlarge is None and entry.start is None and entry.mask != "required"


def source_request(
    task: str, entry: SourceEntry, source: SourceImage, mask: Mask | None = None, factor: int | None = None,
    composite: bool = False,
) -> SourceRequest:  # fmt: skip
    """What ``task``, whose ``entry`` a model has, is to make of ``source``; ``factor`` None is its smallest."""
    enlarge = entry.enlarge
    return SourceRequest(
        task, source, mask,
        factor=1 if enlarge is None else factor or min(enlarge.factors),
        composite=composite,
        oversampling=0 if enlarge is None else enlarge.oversampling,
        fills_mask=entry.masked_value is not None,
    )  # fmt: skip


def read_request(
    task: str,
    entry: SourceEntry,
    source: ImageInput,
    mask: ImageInput | None = None,
    factor: int | None = None,
    composite: bool = False,
) -> SourceRequest:
    """Read the images of options that ``check_options`` accepts.

    Raises:
        DataError: when an image cannot be used; see ``image_file``.
    """
    image = read_source_image(source)
    region = None if mask is None else read_mask(mask, image)
    return source_request(task, entry, image, region, factor, composite)


def choose_size(request: SourceRequest, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of a model's ``sizes`` (height, width) the one that suits the source best.

    For a task that enlarges the smallest that holds it, else the largest, which enlarges it in tiles.
    """
    if not request.enlarges:
        return best_canvas(request.source.size, sizes)
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    height, width = (side * request.magnification for side in request.source.size)
    for size in by_area:
        if height <= size[0] and width <= size[1]:
            return size
    return by_area[-1]


def split(request: SourceRequest, size: tuple[int, int]) -> tuple[Tile, ...]:
    """The parts of the source that images of ``size`` (height, width) are made from: one, unless the task enlarges.

    Raises:
        SpecError: as ``tiles``.
    """
    if not request.enlarges:
        height, width = request.source.size
        return (Tile(slice(0, height), slice(0, width)),)
    return tiles(request.source.size, _window(request, size))


def to_canvas(request: SourceRequest, size: tuple[int, int], tile: Tile) -> CanvasInputs:
    """The source, and the mask, as a model of ``size`` (height, width) takes them; to be enlarged the ``tile``."""
    if request.enlarges:
        place = unscaled(tile.size, _window(request, size))
        part = request.source.on_white[tile.rows, tile.columns]
        return CanvasInputs(on_canvas(part, place), None, place)
    place = fitted(request.source.size, size)
    mask = None if request.mask is None else mask_on_canvas(request.mask, place)
    return CanvasInputs(on_canvas(request.source.on_white, place), mask, place)


def _window(request: SourceRequest, size: tuple[int, int]) -> tuple[int, int]:
    """How much of the source one image of ``size`` enlarges, (height, width); at least a pixel."""
    return max(1, size[0] // request.magnification), max(1, size[1] // request.magnification)


def assemble_enlargement(
    request: SourceRequest, generated: Iterable[tuple[Tile, CanvasInputs, Pixels]]
) -> Pixels:
    """The user's image, (h, w, 3), or (h, w, 4) with alpha, each ``factor`` times larger, from enlarged tiles.

    They are larger still by the oversampling: joined, shrunk, and made to agree with the source.
    """
    magnification, source = request.magnification, request.source
    parts = (
        (
            tile,
            image[
                inputs.place.rows.start * magnification : inputs.place.rows.stop * magnification,
                inputs.place.columns.start * magnification : inputs.place.columns.stop * magnification,
            ],
        )
        for tile, inputs, image in generated
    )
    large = shrunk(from_pixels(joined(parts, source.size, magnification)), request.oversampling)
    seen = to_pixels(consistent(large, from_pixels(source.on_white), request.factor))
    if source.alpha is None:
        return source.as_stored(seen)
    alpha, own = enlarge_alpha(source.alpha, request.factor), source.colors
    low, high = color_range(own, source.alpha, request.factor)
    colors = off_white(seen, alpha, low, high)
    colors = replace_faint(colors, alpha, enlarge_colors(own, source.alpha, request.factor))
    return _with_alpha(source.as_stored(colors), alpha)


def from_canvas(request: SourceRequest, inputs: CanvasInputs, image: Pixels) -> Pixels:
    """The user's image, not enlarged, (h, w, 3), or (h, w, 4) with alpha, from the model's (H, W, 3)."""
    source, alpha = request.source, request.source.alpha
    colors = restored(image, inputs.place)
    if alpha is not None and request.fills_mask and request.mask is not None:
        alpha = np.where(request.mask, np.uint8(255), alpha)
    if alpha is not None:
        colors = without_rim(off_white(colors, alpha), alpha, source.colors, _softness(inputs.place))
        colors = replace_faint(colors, alpha, source.colors)
    colors = source.as_stored(colors)
    region = _changed_region(request, inputs, image)
    if region is not None:
        colors = np.where(region[..., None], colors, source.stored)
    return _with_alpha(colors, alpha)


def _softness(place: Place) -> int:
    """Pixels of the source over which a model's image blurs an edge: two of the canvas."""
    scale = max(own / side for own, side in zip(place.own, place.size, strict=True))
    return min(max(1, math.ceil(2 * scale)), 32)


def _changed_region(request: SourceRequest, inputs: CanvasInputs, image: Pixels) -> Mask | None:
    """Pixels (h, w) that are not the source's own; None for all of them."""
    if request.mask is not None:
        return request.mask
    if not request.composite:
        return None
    before = to_pixels(inputs.source)
    moved = changed(image, before).astype(np.uint8) * 255
    region: Mask = restored(np.repeat(moved[..., None], 3, 2), inputs.place)[..., 0] > 127
    return region


def _with_alpha(colors: Pixels, alpha: Pixels | None) -> Pixels:
    return np.ascontiguousarray(colors if alpha is None else np.dstack([colors, alpha]))
