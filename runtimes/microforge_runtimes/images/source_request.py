"""From a user's source image to a model's inputs, and from the model's image back to one of the user's own size.

What is preserved: every pixel outside a mask, bit for bit and in the colour profile that it has; for ``edit`` with
``composite`` every pixel without a visible change; alpha always, but where ``inpaint`` filled the mask, which is opaque.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from microforge.errors import SpecError
from microforge_runtimes.images.alpha import (
    color_range,
    enlarge_alpha,
    enlarge_colors,
    off_white,
    replace_faint,
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
from microforge_runtimes.images.resampling import FACTORS, OVERSAMPLING, consistent, shrunk
from microforge_runtimes.images.tiling import Tile, joined, tiles
from microforge_runtimes.sampler import Floats, from_pixels, to_pixels


@dataclass(frozen=True)
class SourceRequest:
    """What is to be made of a source image: ``mask`` (h, w) of inpaint or edit, ``factor`` of super-resolve."""

    task: str
    source: SourceImage
    mask: Mask | None = None
    factor: int = 1
    composite: bool = False

    @property
    def magnification(self) -> int:
        """How much larger the model's image is than its part of the source."""
        return self.factor * OVERSAMPLING if self.task == "super-resolve" else 1


@dataclass(frozen=True)
class CanvasInputs:
    """``source`` (1, 3, H, W), for super-resolve smaller by the magnification, ``mask`` (1, 1, H, W) or None, and their place."""

    source: Floats
    mask: Floats | None
    place: Place


def check_options(
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
        raise SpecError("--task inpaint needs --mask FILE, white where the image is to be filled")
    if mask is not None and task == "super-resolve":
        raise SpecError("--mask belongs to --task inpaint and edit, not to super-resolve")
    if factor is not None and task != "super-resolve":
        raise SpecError(f"--factor belongs to --task super-resolve, not to {task}")
    if factor is not None and factor not in FACTORS:
        raise SpecError(f"--factor is {factor}; allowed: {', '.join(map(str, FACTORS))}")
    if composite and task != "edit":
        raise SpecError(f"--composite belongs to --task edit, not to {task}")
    if composite and mask is not None:
        raise SpecError(
            "--composite finds the changed part by itself, --mask says which it is; give one of them"
        )
    if prompt is None and task in ("generate", "edit"):
        raise SpecError(f"Missing argument PROMPT: --task {task} needs a prompt")


def read_request(
    task: str,
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
    area = None if mask is None else read_mask(mask, image)
    larger = (factor or FACTORS[0]) if task == "super-resolve" else 1
    return SourceRequest(task, image, area, larger, composite)


def choose_size(request: SourceRequest, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of a model's ``sizes`` (height, width) the one that suits the source best.

    For super-resolve the smallest that holds it, else the largest, which enlarges it in tiles.
    """
    if request.task != "super-resolve":
        return best_canvas(request.source.size, sizes)
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    height, width = (side * request.magnification for side in request.source.size)
    for size in by_area:
        if height <= size[0] and width <= size[1]:
            return size
    return by_area[-1]


def split(request: SourceRequest, size: tuple[int, int]) -> tuple[Tile, ...]:
    """The parts of the source that images of ``size`` (height, width) are made from: one, but for super-resolve.

    Raises:
        SpecError: as ``tiles``.
    """
    if request.task != "super-resolve":
        height, width = request.source.size
        return (Tile(slice(0, height), slice(0, width)),)
    return tiles(request.source.size, _window(request, size))


def to_canvas(request: SourceRequest, size: tuple[int, int], tile: Tile) -> CanvasInputs:
    """The source, and the mask, as a model of ``size`` (height, width) takes them; of super-resolve the ``tile``."""
    if request.task == "super-resolve":
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
    """The user's image, (h, w, 3), or (h, w, 4) with alpha, each ``factor`` times larger, from super-resolved tiles.

    They are larger still by ``OVERSAMPLING``: joined, shrunk, and made to agree with the source.
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
    large = shrunk(from_pixels(joined(parts, source.size, magnification)), OVERSAMPLING)
    seen = to_pixels(consistent(large, from_pixels(source.on_white), request.factor))
    if source.alpha is None:
        return source.as_stored(seen)
    alpha, own = enlarge_alpha(source.alpha, request.factor), source.colors
    low, high = color_range(own, source.alpha, request.factor)
    colors = off_white(seen, alpha, low, high)
    colors = replace_faint(colors, alpha, enlarge_colors(own, source.alpha, request.factor))
    return _with_alpha(source.as_stored(colors), alpha)


def from_canvas(request: SourceRequest, inputs: CanvasInputs, image: Pixels) -> Pixels:
    """The user's image of edit or inpaint, (h, w, 3), or (h, w, 4) with alpha, from the model's (H, W, 3)."""
    source, alpha = request.source, request.source.alpha
    colors = restored(image, inputs.place)
    if alpha is not None and request.task == "inpaint" and request.mask is not None:
        alpha = np.where(request.mask, np.uint8(255), alpha)
    if alpha is not None:
        colors = replace_faint(off_white(colors, alpha), alpha, source.colors)
    colors = source.as_stored(colors)
    region = _changed_region(request, inputs, image)
    if region is not None:
        colors = np.where(region[..., None], colors, source.stored)
    return _with_alpha(colors, alpha)


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
