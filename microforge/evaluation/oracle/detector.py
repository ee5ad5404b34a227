"""Rule-based detector of the procedural world, "the oracle": reads an image of coloured shapes back into objects.

    image -> background colour -> mask -> components -> colour, coverage -> best-fitting shape

It works by analysis and re-synthesis, without learning. Its thresholds tolerate what distinguishes generated images
from true renders: blur, shifted colours and faint halos. Objects that touch are read as one, usually "unknown".

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
from microforge.evaluation.oracle.templates import Array, fit_shapes

UNKNOWN = "unknown"
MIN_SIDE = 64

#: RGB distance from the background beyond which a pixel may belong to an object; half of scenes.MIN_CONTRAST is 0.22.
MIN_DISTANCE = 0.18
#: Radius of the local maximum of contrast, as a share of the side; an outline is where contrast falls to half of it.
EDGE_REACH = 0.024
#: Smallest area of an object, as a share of side^2; the smallest rendered object covers 0.017.
MIN_AREA = 0.005
#: Quantile of contrast above which an object's pixels determine its colour.
CORE_FROM = 0.6
#: Smallest IoU with a shape's template; two different shapes reach at most 0.84.
MIN_IOU = 0.80
#: Factor by which coverage is steepened around one half, which compensates for mild blur.
STEEPNESS = 2.0
#: Approximate largest side in pixels of the windows in which shapes are compared.
MAX_WINDOW = 56


@dataclass(frozen=True)
class DetectedObject:
    """An object that was detected in an image.

    Attributes:
        shape: one of ``scenes.SHAPES``, or "unknown".
        color: the nearest of ``scenes.COLORS``.
        x: centre, as a fraction of the image's width.
        y: centre, as a fraction of the image's height.
        radius: as a fraction of the shorter side.
        confidence: IoU with the best-fitting shape.
        box: (left, top, right, bottom) in pixels.
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
    """Background and objects of an image; objects are sorted from the largest to the smallest."""

    background: str
    background_rgb: RGB
    objects: tuple[DetectedObject, ...]

    def summary(self) -> str:
        """The detected objects as text: ``"red circle, blue star on white"``."""
        objects = ", ".join(f"{one.color} {one.shape}" for one in self.objects) or "nothing"
        return f"{objects} on {self.background}"


def detect(image: NDArray[np.uint8] | NDArray[np.floating]) -> Detection:
    """Detect the objects of ``image`` (H, W, 3), uint8 or float in [0, 1], at least 64 pixels per side.

    Raises:
        DataError: for an array of another shape, or a smaller image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < MIN_SIDE:
        raise DataError(
            f"the detector reads images (H, W, 3) of at least {MIN_SIDE} px per side, got {image.shape}"
        )
    pixels: Array = image.astype(np.float32) / (255.0 if image.dtype == np.uint8 else 1.0)
    background = background_color(pixels)
    labels, count = _components(pixels, background)
    side = min(pixels.shape[:2])
    objects = [
        _read_object(pixels, background, labels, index, window)
        for index, window in enumerate(ndimage.find_objects(labels, count), start=1)
        if np.count_nonzero(labels[window] == index) >= MIN_AREA * side * side
    ]
    objects.sort(key=lambda item: -item.radius)
    red, green, blue = background.tolist()
    return Detection(nearest_color(background), (red, green, blue), tuple(objects))


def nearest_color(rgb: Array) -> str:
    """Name of the colour whose RGB value is nearest to ``rgb`` (3,)."""
    return min(COLORS, key=lambda name: math.dist(COLORS[name], rgb.tolist()))


def background_color(pixels: Array) -> Array:
    """Mean colour (3,) of all pixels near the median colour of the border, which objects rarely reach."""
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
    """Connected components of object pixels: labels (H, W), counted from 1, and their number."""
    distance = np.linalg.norm(pixels - background, axis=2)
    size = 2 * max(1, round(EDGE_REACH * min(pixels.shape[:2]))) + 1
    # Half of the *local* contrast: a global threshold would include the blur of objects with high contrast, and join
    # them to their neighbours.
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
    member = labels[rows, columns] == index
    local = pixels[rows, columns]
    color = _core_color(local, background, member)
    coverage = _coverage(local, background, color, member, labels[rows, columns])
    scale = max(1, math.ceil(max(coverage.shape) / MAX_WINDOW))
    best = fit_shapes(_reduce(coverage, scale))[0]
    return DetectedObject(
        shape=best.shape if best.iou >= MIN_IOU else UNKNOWN,
        color=nearest_color(color),
        x=(columns.start + best.x * scale) / width,
        y=(rows.start + best.y * scale) / height,
        radius=best.radius * scale / side,
        confidence=best.iou,
        box=(window[1].start, window[0].start, window[1].stop, window[0].stop),
    )


def _core_color(local: Array, background: Array, member: NDArray[np.bool_]) -> Array:
    """Median colour (3,) of the pixels with the highest contrast; the others blend into the background."""
    pixels = local[member]
    contrast = np.linalg.norm(pixels - background, axis=1)
    color: Array = np.median(pixels[contrast >= np.quantile(contrast, CORE_FROM)], axis=0)
    return color


def _coverage(
    local: Array, background: Array, color: Array, member: NDArray[np.bool_], labels: NDArray[np.int32]
) -> Array:
    """Coverage (h, w) of each pixel by the object, in [0, 1]; zero away from it and on its neighbours."""
    contrast = color - background
    share = (local - background) @ contrast / max(float(contrast @ contrast), 1e-6)
    near = ndimage.binary_dilation(member, iterations=2) & ((labels == 0) | member)
    sharp: Array = np.clip(0.5 + STEEPNESS * (share - 0.5), 0.0, 1.0).astype(np.float32)
    return np.where(near, sharp, np.float32(0))


def _reduce(coverage: Array, scale: int) -> Array:
    """Average over blocks of scale x scale pixels, padded with zeros to whole blocks."""
    if scale == 1:
        return coverage
    padded = np.pad(coverage, [(0, -length % scale) for length in coverage.shape])
    blocks = padded.reshape(padded.shape[0] // scale, scale, padded.shape[1] // scale, scale)
    mean: Array = blocks.mean((1, 3))
    return mean
