"""From an object on transparency to a sticker: cropped, centred in a square, with a white outline. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microforge_runtimes.images.matte import VISIBLE, Pixels

_WHITE = 255.0


def visible_box(pixels: Pixels) -> tuple[slice, slice] | None:
    """Rows and columns of what can be seen in ``pixels`` (h, w, 4); None when nothing can."""
    seen = pixels[..., 3] > VISIBLE
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def lay_out(pixels: Pixels, side: int, margin: int, outline: int) -> Pixels:
    """A sticker (side, side, 4) of the object in ``pixels`` (h, w, 4).

    It is as large as ``margin`` and ``outline`` leave room for.
    """
    box = visible_box(pixels)
    part = pixels if box is None else pixels[box]
    room = side - 2 * (margin + outline)
    scale = room / max(part.shape[:2])
    height, width = (max(1, round(length * scale)) for length in part.shape[:2])
    resized = Image.fromarray(np.ascontiguousarray(part)).resize((width, height), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(resized, ((side - width) // 2, (side - height) // 2))
    return outlined(np.asarray(canvas, np.uint8), outline)


def outlined(pixels: Pixels, width: int) -> Pixels:
    """``pixels`` (h, w, 4) over a white outline of ``width`` pixels."""
    alpha = pixels[..., 3].astype(np.float32) / 255.0
    stroke = _dilated(np.clip(2.0 * alpha - 0.5, 0.0, 1.0), width)  # faint pixels get no outline
    cover = np.maximum(alpha + stroke * (1.0 - alpha), 1e-6)
    colors = pixels[..., :3] * alpha[..., None] + _WHITE * (stroke * (1.0 - alpha))[..., None]
    result = np.dstack([colors / cover[..., None], cover * 255.0])
    result[cover <= 1e-6] = 0.0
    pixels_with_outline: Pixels = np.rint(np.clip(result, 0.0, 255.0)).astype(np.uint8)
    return pixels_with_outline


def _dilated(alpha: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """The largest ``alpha`` (h, w) within a disc of ``radius`` with an anti-aliased rim."""
    height, width = alpha.shape
    wide = np.pad(alpha, radius)
    result = alpha.copy()
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            weight = min(1.0, radius + 0.5 - float(np.hypot(y, x)))
            if weight > 0.0:
                moved = wide[radius + y : radius + y + height, radius + x : radius + x + width]
                np.maximum(result, moved * np.float32(weight), out=result)
    return result
