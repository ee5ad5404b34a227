"""An image of any size on a model's canvas, and back to its own size. No torch.

A picture is scaled until one side fills the canvas, centred, and its border pixels are repeated up to the
canvas's edge: a model that was trained on whole images sees no frame. Letters: h w the picture's own height and
width, H W the canvas's, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from microforge.changed_pixels import DIFFERENCE_THRESHOLD, MARGIN, MIN_RADIUS
from microforge_runtimes.images.image_file import Mask, Pixels
from microforge_runtimes.sampler import Floats, from_pixels


@dataclass(frozen=True)
class Place:
    """Where a picture of ``own`` (h, w) lies on a ``canvas`` (H, W): ``size`` pixels from ``top``, ``left``."""

    own: tuple[int, int]
    canvas: tuple[int, int]
    size: tuple[int, int]
    top: int
    left: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.size[0])

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.size[1])

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Pixels above and below, left and right."""
        bottom, right = (whole - side for whole, side in zip(self.canvas, self.size, strict=True))
        return (self.top, bottom - self.top), (self.left, right - self.left)


def fitted(own: tuple[int, int], canvas: tuple[int, int]) -> Place:
    """A picture of ``own`` (h, w) as large as ``canvas`` (H, W) holds it, whatever its shape."""
    scale = min(canvas[0] / own[0], canvas[1] / own[1])
    size = tuple(min(max(1, round(side * scale)), most) for side, most in zip(own, canvas, strict=True))
    return _centred(own, canvas, (size[0], size[1]))


def unscaled(own: tuple[int, int], canvas: tuple[int, int]) -> Place:
    """A picture of ``own`` (h, w), no larger than the canvas, pixel for pixel."""
    return _centred(own, canvas, own)


def _centred(own: tuple[int, int], canvas: tuple[int, int], size: tuple[int, int]) -> Place:
    top, left = ((whole - side) // 2 for whole, side in zip(canvas, size, strict=True))
    return Place(own, canvas, size, top, left)


def best_canvas(own: tuple[int, int], canvases: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The canvas that a picture of ``own`` (h, w) leaves least of unused; the largest of equal ones."""

    def used(canvas: tuple[int, int]) -> tuple[float, int]:
        place = fitted(own, canvas)
        area = canvas[0] * canvas[1]
        return round(place.size[0] * place.size[1] / area, 3), area

    return max(canvases, key=used)


def on_canvas(pixels: Pixels, place: Place) -> Floats:
    """``pixels`` (h, w, 3) as the float32 (1, 3, H, W) in [0, 1] that the networks take."""
    shown = _resized(pixels, place.size)
    wide = np.pad(shown, (*place.padding, (0, 0)), mode="edge")
    return from_pixels(wide)


def mask_on_canvas(mask: Mask, place: Place) -> Floats:
    """(1, 1, H, W): 1 on pixels that ``mask`` (h, w) covers in part (scaled up: at their centre), 0 in the padding."""
    height, width = place.size
    plane = Image.fromarray(mask.astype(np.float32), "F").resize((width, height), Image.Resampling.BOX)
    hole = np.pad((np.asarray(plane) > 1e-6).astype(np.float32), place.padding)
    return hole[None, None]


def restored(image: Pixels, place: Place) -> Pixels:
    """The picture (h, w, 3) at its own size from the canvas (H, W, 3)."""
    return _resized(np.ascontiguousarray(image[place.rows, place.columns]), place.own)


def changed(image: Pixels, source: Pixels) -> Mask:
    """(H, W): where an edit visibly changed its source, and a little around it.

    The same rule as ``microforge.evaluation.edit_judge.changed_region``.
    """
    height, width, _ = image.shape
    moved = (image.astype(np.float64) - source) / 255.0
    wide = np.pad(moved, ((1, 1), (1, 1), (0, 0)))
    mean = sum(wide[y : y + height, x : x + width] for y in range(3) for x in range(3)) / 9.0
    core, reach = (max(1, round(share * min(height, width))) for share in (MIN_RADIUS, MARGIN))
    seen = np.pad(
        (np.abs(mean).max(2) > DIFFERENCE_THRESHOLD).astype(np.uint8) * 255, core, constant_values=255
    )
    cores = np.asarray(Image.fromarray(seen).filter(ImageFilter.MinFilter(2 * core + 1)))
    inner = Image.fromarray(np.ascontiguousarray(cores[core:-core, core:-core]))
    return np.asarray(inner.filter(ImageFilter.MaxFilter(2 * (reach + core) + 1))) > 0


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """``pixels`` (h, w[, C]) at ``size``, anti-aliased; the same array when the size is its own."""
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8)
