"""A detector of stickers that needs no training: it cuts out objects and compares each with every picture of the set.

An object is described by 24 x 24 pixels of its colours on white, of the edges of its brightness, and of its outline, each of
length 1; the similarity of two objects is the mean of the three cosines. Objects are separated by the background matte, so
those that touch are one object: that error is part of the ceilings that stand beside every score.

Letters: N pictures of the set, F numbers of a description, h w height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from microforge.data.stickers.catalogue import Sticker
from microforge.data.stickers.recolor import profile
from microforge.data.stickers.store import SpriteStore
from microforge_runtimes.images.matte import cut_out

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
_SIDE = 24
#: Share of the image that an object covers, at least.
_MIN_AREA = 0.004
#: Alpha above which pixels belong to an object.
_SOLID = 128


@dataclass(frozen=True)
class DetectedSticker:
    """An object of an image: its centre as shares of height and width, its description (F,), and its colour word."""

    y: float
    x: float
    description: Floats
    color: str | None


class StickerDetector:
    """Names objects by the nearest of a set's pictures."""

    def __init__(self, stickers: Sequence[Sticker], store: SpriteStore) -> None:
        """Describe every usable picture of the set; takes about a millisecond each."""
        rows = [row for row in range(len(stickers)) if store.usable(row)]
        self.rows = np.array(rows)
        self.subjects = [stickers[row].subject for row in rows]
        self.styles = [stickers[row].style for row in rows]
        self.descriptions: Floats = np.stack([_describe_row(store, row) for row in rows])  # (N, F)
        self._names = tuple(dict.fromkeys(self.subjects))
        numbers = {name: index for index, name in enumerate(self._names)}
        self._numbers = np.array([numbers[name] for name in self.subjects])

    def similarities(self, description: Floats) -> Floats:
        """Similarity with every picture: (N,)."""
        result: Floats = self.descriptions @ description
        return result

    def ranked_subjects(self, description: Floats, most: int = 5) -> list[str]:
        """The ``most`` subjects with the most similar pictures, nearest first."""
        best = np.full(len(self._names), -1.0, np.float32)
        np.maximum.at(best, self._numbers, self.similarities(description))
        return [self._names[index] for index in np.argsort(-best, kind="stable")[:most]]

    def objects(self, image: Pixels) -> list[DetectedSticker]:
        """The objects of ``image`` (h, w, 3), from the top left on."""
        return list(detect_objects(image))


def detect_objects(image: Pixels) -> Iterator[DetectedSticker]:
    """The objects of ``image`` (h, w, 3) that its plain background separates; none without one."""
    matte = cut_out(image)
    if not matte.is_cut:
        return
    labels, count = ndimage.label(matte.pixels[..., 3] >= _SOLID)
    for index, box in enumerate(ndimage.find_objects(labels, count), 1):
        own = labels[box] == index
        if own.sum() < _MIN_AREA * image.shape[0] * image.shape[1]:
            continue
        part = matte.pixels[box].copy()
        part[..., 3] = np.where(own, part[..., 3], 0)
        centre = [
            (span.start + span.stop) / 2 / side for span, side in zip(box, image.shape[:2], strict=True)
        ]
        premultiplied = _premultiplied(part)
        yield DetectedSticker(centre[0], centre[1], describe(premultiplied), profile(premultiplied).word)


def whole_object(image: Pixels) -> Floats | None:
    """The description (F,) of all that is not background in ``image`` (h, w, 3), as one object; None for nothing."""
    matte = cut_out(image)
    seen = matte.pixels[..., 3] >= _SOLID
    if not matte.is_cut or not seen.any():
        return None
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    part = matte.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return describe(_premultiplied(part))


def describe(pixels: Pixels) -> Floats:
    """The description (F,) of a premultiplied picture (h, w, 4) that fills its frame."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 4), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    planes = [
        np.asarray(
            Image.fromarray(square[..., channel]).resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32
        )
        for channel in range(4)
    ]
    small = np.stack(planes, -1) / 255.0
    alpha = small[..., 3]
    ink = small[..., :3] - alpha[..., None]  # colours on white, and white is 0
    grey = ink.mean(2)
    edges = np.stack([np.diff(grey, axis=0, append=0), np.diff(grey, axis=1, append=0)])
    blocks = [ink, edges, alpha - 0.5]
    lengths = [max(float(np.linalg.norm(block)), 1e-6) for block in blocks]
    parts = [block.ravel() / length for block, length in zip(blocks, lengths, strict=True)]
    result: Floats = np.concatenate(parts).astype(np.float32) / np.float32(np.sqrt(3.0))
    return result


def _describe_row(store: SpriteStore, row: int) -> Floats:
    left, top, right, bottom = (int(value) for value in store.boxes[row])
    return describe(np.ascontiguousarray(store.pixels[row][top:bottom, left:right]))


def _premultiplied(pixels: Pixels) -> Pixels:
    cover = pixels[..., 3:].astype(np.float32) / 255.0
    colors = np.rint(pixels[..., :3] * cover).astype(np.uint8)
    return np.concatenate([colors, pixels[..., 3:]], 2)
