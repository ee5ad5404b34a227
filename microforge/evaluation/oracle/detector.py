"""The oracle: reads an image of coloured shapes back into a structure, by analysis and re-synthesis.

    image -> background colour -> mask -> components -> colour, coverage -> best-fitting shape

No learning is involved. Thresholds leave room for what generated images have and true renders lack: blur,
drifting colours, faint halos. Objects that touch are read as one, whose shape is then usually "unknown".

Letters: H W image height and width; h w height and width of one object's window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from microforge.data.world.scenes import COLORS, RGB
from microforge.errors import DataError
from microforge.evaluation.oracle.templates import Array, fits

UNKNOWN = "unknown"
MIN_SIDE = 64

#: A pixel this far from the background in RGB may belong to an object; half of scenes.MIN_CONTRAST is 0.22.
MIN_DISTANCE = 0.18
#: An object's outline runs where its contrast falls to half of the strongest contrast this near (share of side).
EDGE_REACH = 0.024
#: Components below this area (share of side^2) are specks; the smallest real object covers 0.017.
MIN_AREA = 0.005
#: An object's colour is read from its pixels above this quantile of contrast.
CORE_FROM = 0.6
#: Below this IoU a shape is unknown; two different shapes overlap by at most 0.84.
MIN_IOU = 0.80
#: Coverage is steepened around one half by this much, which takes back a mild blur.
STEEPNESS = 2.0
#: Shapes are compared in windows of at most about this many pixels a side.
MAX_WINDOW = 56


@dataclass(frozen=True)
class DetectedObject:
    """One object found in an image.

    ``shape`` is one of ``scenes.SHAPES`` or "unknown", ``color`` the nearest of ``scenes.COLORS``; ``x``, ``y``
    are fractions of width and height, ``radius`` of the shorter side, as in a ``SceneObject``.
    ``confidence`` is the IoU of the best-fitting shape; ``box`` is (left, top, right, bottom) in pixels.
    """

    shape: str
    color: str
    x: float
    y: float
    radius: float
    confidence: float
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Detection:
    """What an image shows; objects from the largest to the smallest."""

    background: str
    background_rgb: RGB
    objects: tuple[DetectedObject, ...]


def detect(image: NDArray[np.uint8] | NDArray[np.floating]) -> Detection:
    """Read ``image`` (H, W, 3), uint8 or float in [0, 1], any size from 64 pixels a side.

    Raises:
        DataError: for another shape or a smaller image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < MIN_SIDE:
        raise DataError(
            f"the oracle reads images (H, W, 3) of at least {MIN_SIDE} px a side, got {image.shape}"
        )
    pixels: Array = image.astype(np.float32) / (255.0 if image.dtype == np.uint8 else 1.0)
    background = background_color(pixels)
    labels, count = _components(pixels, background)
    side = min(pixels.shape[:2])
    found = [
        _read_object(pixels, background, labels, index, window)
        for index, window in enumerate(ndimage.find_objects(labels, count), start=1)
        if np.count_nonzero(labels[window] == index) >= MIN_AREA * side * side
    ]
    found.sort(key=lambda item: -item.radius)
    red, green, blue = background.tolist()
    return Detection(nearest_color(background), (red, green, blue), tuple(found))


def nearest_color(rgb: Array) -> str:
    """The colour word whose RGB value is nearest to ``rgb`` (3,)."""
    return min(COLORS, key=lambda name: math.dist(COLORS[name], rgb.tolist()))


def background_color(pixels: Array) -> Array:
    """(3,): the mean of all pixels near the border's median colour; objects rarely reach the border."""
    edge = max(2, min(pixels.shape[:2]) // 64)
    border = np.concatenate([
        pixels[:edge].reshape(-1, 3), pixels[-edge:].reshape(-1, 3),
        pixels[:, :edge].reshape(-1, 3), pixels[:, -edge:].reshape(-1, 3),
    ])  # fmt: skip
    middle = np.median(border, axis=0)
    near = pixels[np.linalg.norm(pixels - middle, axis=2) < MIN_DISTANCE]
    mean: Array = near.mean(0) if len(near) else middle
    return mean


def _components(pixels: Array, background: Array) -> tuple[NDArray[np.int32], int]:
    """Labels (H, W) from 1, and their number."""
    distance = np.linalg.norm(pixels - background, axis=2)
    size = 2 * max(1, round(EDGE_REACH * min(pixels.shape[:2]))) + 1
    # Half of the *local* contrast: one global threshold would put a strong object's outline into its blur
    # and join it to its neighbour.
    strongest = ndimage.maximum_filter(distance, size=size)
    labels, count = ndimage.label(distance > np.maximum(MIN_DISTANCE, 0.5 * strongest))
    return labels, int(count)


def _read_object(
    pixels: Array, background: Array, labels: NDArray[np.int32], index: int, window: tuple[slice, slice]
) -> DetectedObject:
    height, width = pixels.shape[:2]
    side = min(height, width)
    rows, columns = (
        slice(max(part.start - 2, 0), min(part.stop + 2, limit))
        for part, limit in zip(window, (height, width), strict=True)
    )
    own = labels[rows, columns] == index
    local = pixels[rows, columns]
    color = _core_color(local, background, own)
    coverage = _coverage(local, background, color, own, labels[rows, columns])
    scale = max(1, math.ceil(max(coverage.shape) / MAX_WINDOW))
    best = fits(_reduce(coverage, scale))[0]
    return DetectedObject(
        shape=best.shape if best.iou >= MIN_IOU else UNKNOWN,
        color=nearest_color(color),
        x=(columns.start + best.x * scale) / width,
        y=(rows.start + best.y * scale) / height,
        radius=best.radius * scale / side,
        confidence=best.iou,
        box=(window[1].start, window[0].start, window[1].stop, window[0].stop),
    )


def _core_color(local: Array, background: Array, own: NDArray[np.bool_]) -> Array:
    """(3,): the median colour of the pixels that stand out most; the rest blends into the background."""
    pixels = local[own]
    contrast = np.linalg.norm(pixels - background, axis=1)
    color: Array = np.median(pixels[contrast >= np.quantile(contrast, CORE_FROM)], axis=0)
    return color


def _coverage(
    local: Array, background: Array, color: Array, own: NDArray[np.bool_], labels: NDArray[np.int32]
) -> Array:
    """(h, w) in [0, 1]: how much of each pixel the object covers; zero away from it and on its neighbours."""
    contrast = color - background
    share = (local - background) @ contrast / max(float(contrast @ contrast), 1e-6)
    near = ndimage.binary_dilation(own, iterations=2) & ((labels == 0) | own)
    sharp: Array = np.clip(0.5 + STEEPNESS * (share - 0.5), 0.0, 1.0).astype(np.float32)
    return np.where(near, sharp, np.float32(0))


def _reduce(coverage: Array, scale: int) -> Array:
    """Average blocks of scale x scale pixels, padded with zeros to whole blocks."""
    if scale == 1:
        return coverage
    padded = np.pad(coverage, [(0, -length % scale) for length in coverage.shape])
    blocks = padded.reshape(padded.shape[0] // scale, scale, padded.shape[1] // scale, scale)
    mean: Array = blocks.mean((1, 3))
    return mean
