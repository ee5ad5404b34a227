"""A matte for an image without alpha: its plain background becomes transparent. No torch.

The background is the median colour of the image's border. What is near to it and connected to the border is removed. The
edge of what is left is smoothed, and its colours are those from further inside, without the background's share.
Background that objects enclose stays. Letters: h w height and width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_Floats = NDArray[np.float32]

#: Largest difference of a level, of 255, at which a pixel belongs to the background.
TOLERANCE = 24
#: Share of the border that has to have the background's colour.
PLAIN_BORDER = 0.7
#: Width in pixels of the edge between object and background in an image that was not enlarged.
EDGE = 2
#: Alpha above which a pixel counts as visible.
VISIBLE = 12


@dataclass(frozen=True)
class Matte:
    """``pixels`` (h, w, 4), not premultiplied. ``is_cut``: whether a plain background was there to be removed."""

    pixels: Pixels
    is_cut: bool


def cut_out(pixels: Pixels, edge: int = EDGE) -> Matte:
    """``pixels`` (h, w, 3) with alpha; opaque where the border has no plain colour, or nothing else is in the image.

    Args:
        edge: width in pixels over which objects and background mix. Loose parts that are thinner are removed.
    """
    border = _border(pixels)
    background = np.median(border, 0).astype(np.float32)
    distance = np.abs(pixels.astype(np.float32) - background).max(2)  # (h, w)
    is_plain = (np.abs(border - background).max(1) <= TOLERANCE).mean() >= PLAIN_BORDER
    outside = connected(distance <= TOLERANCE, _frame(distance.shape))
    if not is_plain or outside.all():
        opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        return Matte(np.concatenate([pixels, opaque], 2), False)
    cores = _eroded(~outside, edge // 2 + 1)
    if cores.any():
        outside = ~connected(~outside, cores)
    alpha, colors = _soft_edge(pixels, distance, outside, edge)
    return Matte(np.dstack([colors, alpha]), True)


def without_background(colors: Pixels, alpha: Pixels) -> Pixels:
    """The objects (h, w, 4) of an image ``colors`` (h, w, 3) that shows them on its background.

    The background's colour is the median of the pixels that ``alpha`` (h, w) leaves free; without any the colours stay.
    """
    free = alpha <= VISIBLE
    if not free.any():
        return np.dstack([colors, alpha])
    background = np.median(colors[free], 0).astype(np.float32)
    cover = alpha[..., None].astype(np.float32) / 255.0
    own = (colors - background * (1.0 - cover)) / np.maximum(cover, 1.0 / 255.0)
    return np.dstack([np.rint(np.clip(own, 0, 255)).astype(np.uint8), alpha])


def connected(area: Mask, seeds: Mask) -> Mask:
    """The parts of ``area`` (h, w) that hold a pixel of ``seeds``; pixels that share a side are connected."""
    reached = area & seeds
    while True:
        before = int(reached.sum())
        reached = _along_rows(area, reached)
        reached = _along_rows(area.T, reached.T).T
        if int(reached.sum()) == before:
            return reached


def _along_rows(area: Mask, reached: Mask) -> Mask:
    """``reached`` spread over every unbroken run of ``area`` in a row that holds a pixel of it."""
    ends = ~area
    ends[:, 0] = True  # a run does not go on in the next row
    run = np.cumsum(ends)  # an end opens the next run
    holds = np.zeros(int(run[-1]) + 1, np.bool_)
    holds[run[reached.ravel()]] = True
    spread: Mask = area & holds[run].reshape(area.shape)
    return spread


def _frame(shape: tuple[int, ...]) -> Mask:
    frame = np.zeros(shape, np.bool_)
    frame[[0, -1]], frame[:, [0, -1]] = True, True
    return frame


def _border(pixels: Pixels) -> NDArray[np.float64]:
    sides = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    border: NDArray[np.float64] = np.concatenate(sides).astype(np.float64)
    return border


def _soft_edge(pixels: Pixels, distance: _Floats, outside: Mask, edge: int) -> tuple[Pixels, Pixels]:
    """Alpha (h, w), smooth along the edge, and colours (h, w, 3): near the edge those from further inside.

    Alpha is the object's share of a pixel's ``distance`` (h, w) to the background, where the object's colour is known: what
    is thinner than its edge keeps its own.
    """
    inner = _eroded(~outside, edge)
    colors, known = pixels.astype(np.float32), inner
    reach = distance[..., None]
    for _ in range(2 * edge + 2):
        spread, _ = _spread(np.concatenate([colors, reach], 2), known)
        colors, reach = spread[..., :3], spread[..., 3:]
        known = _grown(known, 1)
    share = np.where(known & ~inner, distance / np.maximum(reach[..., 0], 1.0), 1.0)
    cover = np.where(outside & ~known, 0.0, np.clip(share, 0.0, 1.0)) * ~(outside & _eroded(outside, edge))
    plane = Image.fromarray(np.rint(cover * 255).astype(np.uint8))
    smooth = np.asarray(plane.filter(ImageFilter.GaussianBlur(edge / 3)), np.float32) / 255.0
    alpha = np.clip((smooth - 0.5) * 1.5 + 0.5, 0.0, 1.0)
    own = np.where(known[..., None], colors, pixels)
    return np.rint(alpha * 255).astype(np.uint8), np.rint(np.clip(own, 0, 255)).astype(np.uint8)


def _spread(colors: _Floats, known: Mask) -> tuple[_Floats, Mask]:
    """The mean of the known ones of 3 x 3 pixels where a colour is not known."""
    height, width = known.shape
    weight = np.pad(known.astype(np.float32), 1)
    weighted = np.pad(colors * known[..., None], ((1, 1), (1, 1), (0, 0)))
    shifts = [(y, x) for y in range(3) for x in range(3)]
    total = sum(weighted[y : y + height, x : x + width] for y, x in shifts)
    count = sum(weight[y : y + height, x : x + width] for y, x in shifts)
    fill = ~known & (count > 0)
    mean = total / np.maximum(count, 1.0)[..., None]
    spread: _Floats = np.where(fill[..., None], mean, colors).astype(np.float32)
    return spread, known | fill


def _grown(area: Mask, reach: int) -> Mask:
    plane = Image.fromarray(area.astype(np.uint8) * 255)
    return np.asarray(plane.filter(ImageFilter.MaxFilter(2 * reach + 1))) > 0


def _eroded(area: Mask, reach: int) -> Mask:
    return ~_grown(~area, reach)


def transparent(colors: Pixels, alpha: Pixels | None, edge: int = EDGE) -> Matte:
    """An image ``colors`` (h, w, 3) without background: by the model's ``alpha`` (h, w), else by ``cut_out``."""
    return cut_out(colors, edge) if alpha is None else Matte(without_background(colors, alpha), True)
