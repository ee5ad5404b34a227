"""A picture larger than a model's canvas, enlarged piece by piece: overlapping tiles that fade into each other.

Letters: h w the picture's own height and width in pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microforge.errors import SpecError
from microforge_runtimes.images.image_file import Pixels

#: Share of a tile's side that it has in common with its neighbour, at least.
OVERLAP = 0.25
#: Largest number of tiles; each takes a whole run of the model.
MOST = 256


@dataclass(frozen=True)
class Tile:
    """A part of a picture, in its own pixels."""

    rows: slice
    columns: slice

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def tiles(own: tuple[int, int], window: tuple[int, int]) -> tuple[Tile, ...]:
    """Tiles of at most ``window`` (height, width) that cover a picture of ``own`` (h, w), row by row.

    Raises:
        SpecError: when it takes more than ``MOST``.
    """
    spans = [_spans(side, most) for side, most in zip(own, window, strict=True)]
    count = len(spans[0]) * len(spans[1])
    if count > MOST:
        raise SpecError(
            f"the source has {own[1]}x{own[0]} pixels; this model enlarges {window[1]}x{window[0]} at a time, which "
            f"takes {count} tiles, at most {MOST} are allowed: shrink the source, or crop a part of it"
        )
    return tuple(Tile(rows, columns) for rows, columns in itertools.product(*spans))


def _spans(side: int, window: int) -> list[slice]:
    """Parts of one axis, evenly spread."""
    if side <= window:
        return [slice(0, side)]
    step = max(1, window - math.ceil(OVERLAP * window))
    count = math.ceil((side - window) / step) + 1
    starts = [round(index * (side - window) / (count - 1)) for index in range(count)]
    return [slice(start, start + window) for start in starts]


def joined(parts: Iterable[tuple[Tile, Pixels]], own: tuple[int, int], factor: int) -> Pixels:
    """One picture (h * factor, w * factor, 3) from enlarged tiles, weighted by the distance from their inner edges."""
    total = np.zeros((own[0] * factor, own[1] * factor, 3))
    weight = np.zeros((own[0] * factor, own[1] * factor, 1))
    for tile, pixels in parts:
        rows, columns = (slice(span.start * factor, span.stop * factor) for span in (tile.rows, tile.columns))
        shares = (
            _fade(span, side, factor) for span, side in zip((tile.rows, tile.columns), own, strict=True)
        )
        vertical, horizontal = shares
        cover = (vertical[:, None] * horizontal[None])[..., None]
        total[rows, columns] += cover * pixels
        weight[rows, columns] += cover
    return np.rint(total / weight).astype(np.uint8)


def _fade(span: slice, side: int, factor: int) -> NDArray[np.float64]:
    """Weights of one axis of a tile: 1, falling towards an edge that is not the picture's own."""
    length = (span.stop - span.start) * factor
    ramp = np.minimum((np.arange(length) + 0.5) / max(1.0, OVERLAP * length), 1.0)
    weights = np.ones(length)
    if span.start > 0:
        weights = weights * ramp
    if span.stop < side:
        weights = weights * ramp[::-1]
    return weights
