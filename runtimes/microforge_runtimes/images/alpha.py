"""Transparent images: laid on white for a model, and taken off white again. No torch.

A model knows opaque images only. What it made of a half-transparent red is a pink; written back beside the alpha of
the source, the white would count twice. Colours are uint8 (h, w, 3), alpha uint8 (h, w), both not premultiplied.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

#: Below this alpha an image laid on white says too little about its own colour.
FAINT = 16
#: Distance in source pixels up to which a pixel visibly changes an enlarged image.
_REACH = 4


def over_white(colors: Pixels, alpha: Pixels | None) -> Pixels:
    """``colors`` (h, w, 3) as they are seen on white."""
    if alpha is None:
        return colors
    cover = alpha[..., None].astype(np.float32) / 255.0
    mixed: Pixels = np.rint(colors * cover + 255.0 * (1.0 - cover)).astype(np.uint8)
    return mixed


def off_white(seen: Pixels, alpha: Pixels, low: Pixels | int = 0, high: Pixels | int = 255) -> Pixels:
    """The colours (h, w, 3) that are ``seen`` (h, w, 3) when they lie on white with ``alpha``.

    Args:
        low: smallest level that a colour which is not opaque may have, of all or of each; an alpha that differs a
            little from what is seen would otherwise lead far beyond any colour of the image.
        high: largest level, likewise.
    """
    cover = alpha[..., None].astype(np.float32) / 255.0
    own = (seen - 255.0 * (1.0 - cover)) / np.maximum(cover, 1.0 / 255.0)
    colors: Pixels = np.rint(np.clip(own, low, high)).astype(np.uint8)
    return colors


def replace_faint(colors: Pixels, alpha: Pixels, own: Pixels) -> Pixels:
    """``colors`` (h, w, 3), and where ``alpha`` is nearly 0 the colours ``own`` (h, w, 3) instead, with a soft change."""
    share = np.clip(alpha[..., None].astype(np.float32) / FAINT, 0.0, 1.0)
    mixed: Pixels = np.rint(share * colors + (1.0 - share) * own).astype(np.uint8)
    return mixed


def enlarge_alpha(alpha: Pixels, factor: int) -> Pixels:
    """``alpha`` (h, w) ``factor`` times larger."""
    return np.asarray(_enlarged(Image.fromarray(alpha), factor), np.uint8)


def enlarge_colors(colors: Pixels, alpha: Pixels, factor: int) -> Pixels:
    """``colors`` (h, w, 3) ``factor`` times larger, each weighted by its ``alpha``: invisible colours do not mix in."""
    weight = alpha.astype(np.float32) / 255.0
    large_weight = _enlarged_plane(weight, factor)
    planes = []
    for channel in colors.transpose(2, 0, 1).astype(np.float32):
        weighted = _enlarged_plane(channel * weight, factor) / np.maximum(large_weight, 1e-3)
        planes.append(np.where(large_weight > 1e-2, weighted, _enlarged_plane(channel, factor)))
    enlarged: Pixels = np.rint(np.stack(planes, -1)).clip(0, 255).astype(np.uint8)
    return enlarged


def color_range(colors: Pixels, alpha: Pixels, factor: int) -> tuple[Pixels, Pixels]:
    """Levels that ``colors`` (h, w, 3) may have after they were enlarged on white: (low, high), ``factor`` times larger.

    Near pixels that are not opaque, where white may have come in, they are the smallest and largest visible levels of
    3 x 3 pixels around, and the pixel's own where nothing is visible around. Elsewhere they are 0 and 255.
    """
    visible = (alpha > 0)[..., None]
    low = _around(np.where(visible, colors, np.uint8(255)), 1, np.minimum)
    high = _around(np.where(visible, colors, np.uint8(0)), 1, np.maximum)
    nothing = low > high
    opaque = _around(alpha[..., None], _REACH, np.minimum) == 255
    low = np.where(opaque, np.uint8(0), np.where(nothing, colors, low))
    high = np.where(opaque, np.uint8(255), np.where(nothing, colors, high))
    return low.repeat(factor, 0).repeat(factor, 1), high.repeat(factor, 0).repeat(factor, 1)


def _around(values: Pixels, reach: int, extreme: np.ufunc) -> Pixels:
    """``extreme`` (np.minimum, np.maximum) of ``values`` (h, w, c) over all pixels at most ``reach`` away."""
    height, width, _ = values.shape
    wide = np.pad(values, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    span = range(2 * reach + 1)
    result: Pixels = extreme.reduce([wide[y : y + height, x : x + width] for y in span for x in span])
    return result


def _enlarged_plane(plane: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    return np.asarray(_enlarged(Image.fromarray(plane), factor), np.float32)


def _enlarged(image: Image.Image, factor: int) -> Image.Image:
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
