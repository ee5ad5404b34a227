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
#: A level of the darkest channel from which a colour counts as white of the source's own.
_NEARLY_WHITE = 200
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


def without_rim(colors: Pixels, alpha: Pixels, own: Pixels, reach: int) -> Pixels:
    """``colors`` (h, w, 3), taken off white, without the white that a model let into the edge of what is visible.

    A model's image has soft edges, softer than ``alpha`` (h, w): what lies just inside an outline holds some of the
    white around it. There white is taken off until no colour is lighter than those deeper inside. Where the
    source's own colours ``own`` (h, w, 3) are nearly white, and in parts that have no inside, nothing changes.

    Args:
        reach: pixels that white may have come in.
    """
    inside = _spread((alpha == 255).astype(np.uint8)[..., None], reach, np.minimum)
    lightest = _spread(np.where(inside > 0, colors, np.uint8(0)), 3 * reach, np.maximum).astype(np.float32)
    own_lightest = _spread(np.where((alpha > 0)[..., None], own, np.uint8(0)), reach, np.maximum)
    edge = (inside == 0) & (_spread(inside, 3 * reach, np.maximum) > 0)
    edge &= own_lightest.min(2, keepdims=True) < _NEARLY_WHITE
    white = ((colors - lightest) / np.maximum(255.0 - lightest, 1.0)).max(2, keepdims=True)
    share = np.where(edge, white.clip(0.0, 0.95), 0.0)
    clean = ((colors - 255.0 * share) / (1.0 - share)).clip(0, 255)
    unknown = ((share - 0.5) / 0.4).clip(
        0.0, 1.0
    )  # what is nearly all white says too little about its own colour
    mixed: Pixels = np.rint((1.0 - unknown) * clean + unknown * lightest).astype(np.uint8)
    return mixed


def _spread(values: Pixels, reach: int, extreme: np.ufunc) -> Pixels:
    """As ``_around``, one axis after the other and in steps of doubled width: for a long ``reach``."""
    for axis in (0, 1):
        padding = [(reach, reach) if index == axis else (0, 0) for index in range(3)]
        wide, covered, width = np.pad(values, padding, mode="edge"), 1, 2 * reach + 1
        while covered < width:
            step = min(covered, width - covered)
            count = wide.shape[axis] - step
            wide = extreme(wide.take(range(count), axis), wide.take(range(step, step + count), axis))
            covered += step
        values = wide
    return values


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
