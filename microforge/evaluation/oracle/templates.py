"""Templates of shapes, and their fit to a patch of coverage: the synthesis half of the rule-based detector.

A template is the renderer's coverage of one shape at high resolution. ``project`` integrates it over the pixels of a
window, for any centre and radius, with two small matrix products, because box filtering is separable. A fit takes a few
dozen of these products.

Letters: h w window height and width in pixels, n cells per side of a template.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microforge.data.world.renderer import object_mask
from microforge.data.world.scenes import SHAPES, SceneObject

Array = NDArray[np.float32]

#: Half the side of a template, in units of the object's radius: EXTENT (1.2) and a margin.
REACH = 1.25
_CELLS = 120
#: Number of shapes whose fit is refined.
_FINALISTS = 3
#: IoU from which the first fit is not refined; two different shapes reach at most 0.84.
_CLEAR = 0.93
#: First step sizes of the pattern search: shift in pixels, and growth as a share of the radius.
_FIRST_STEPS = (0.6, 0.06)
_ROUNDS = 3


@dataclass(frozen=True)
class ShapeTemplate:
    """Coverage (n, n) of one shape, its area in radius^2 and its centroid's offset from the centre in radii."""

    shape: str
    coverage: Array
    area: float
    offset: tuple[float, float]


@dataclass(frozen=True)
class ShapeFit:
    """Fit of a shape to a window: centre and radius in pixels from the top left corner, and IoU in [0, 1]."""

    shape: str
    x: float
    y: float
    radius: float
    iou: float


@functools.cache
def templates() -> tuple[ShapeTemplate, ...]:
    """Templates of all ``SHAPES``."""
    return tuple(_template(shape) for shape in SHAPES)


def _template(shape: str) -> ShapeTemplate:
    item = SceneObject(shape, "black", "large", 0.5, 0.5, 0.5 / REACH, (0.0, 0.0, 0.0))
    coverage = object_mask(item, _CELLS, _CELLS).numpy()
    cell = 2 * REACH / _CELLS
    axis = (np.arange(_CELLS) + 0.5) * cell - REACH
    total = float(coverage.sum())
    offset = float(coverage.sum(0) @ axis) / total, float(coverage.sum(1) @ axis) / total
    return ShapeTemplate(shape, coverage, total * cell * cell, offset)


def fit_shapes(patch: Array) -> list[ShapeFit]:
    """Fit every shape to ``patch``, the best fit first.

    Position and radius start from the patch's centroid and area, which are exact for a true render. Unless the best of
    these fits is clear, the most similar shapes are refined by a short pattern search.

    Args:
        patch: coverage (h, w) in [0, 1], not all zero.

    Returns:
        One ``ShapeFit`` per shape.
    """
    area = float(patch.sum())
    x = float(patch.sum(0) @ (np.arange(patch.shape[1]) + 0.5)) / area
    y = float(patch.sum(1) @ (np.arange(patch.shape[0]) + 0.5)) / area
    first = []
    for template in templates():
        radius = float(np.sqrt(area / template.area))
        center = x - template.offset[0] * radius, y - template.offset[1] * radius
        first.append((_score(template, patch, *center, radius), template))
    first.sort(key=lambda pair: -pair[0].iou)
    if first[0][0].iou >= _CLEAR:
        return [fit for fit, _ in first]
    refined = [_refine(fit, template, patch) for fit, template in first[:_FINALISTS]]
    return sorted([*refined, *(fit for fit, _ in first[_FINALISTS:])], key=lambda fit: -fit.iou)


def _refine(fit: ShapeFit, template: ShapeTemplate, patch: Array) -> ShapeFit:
    shift, growth = _FIRST_STEPS
    for _ in range(_ROUNDS):
        moves = [(shift, 0.0, 0.0), (-shift, 0.0, 0.0), (0.0, shift, 0.0), (0.0, -shift, 0.0)]
        for dx, dy, scale in [*moves, (0.0, 0.0, growth), (0.0, 0.0, -growth)]:
            candidate = _score(template, patch, fit.x + dx, fit.y + dy, fit.radius * (1 + scale))
            fit = max(fit, candidate, key=lambda one: one.iou)
        shift, growth = shift / 2, growth / 2
    return fit


def _score(template: ShapeTemplate, patch: Array, x: float, y: float, radius: float) -> ShapeFit:
    expected = project(template.coverage, patch.shape[0], patch.shape[1], x, y, radius)
    both = float(np.minimum(expected, patch).sum())
    either = float(expected.sum() + patch.sum()) - both
    return ShapeFit(template.shape, x, y, radius, both / either)


def project(coverage: Array, height: int, width: int, x: float, y: float, radius: float) -> Array:
    """Average a template's coverage (n, n) over the pixels of a window (height, width)."""
    rows = _overlap(height, y, radius, coverage.shape[0])
    columns = _overlap(width, x, radius, coverage.shape[1])
    return np.asarray(rows @ coverage @ columns.T, np.float32)


def _overlap(pixels: int, center: float, radius: float, cells: int) -> Array:
    """Length (pixels, cells) that each pixel of an axis shares with each cell of the template."""
    edges = center + radius * REACH * np.linspace(-1.0, 1.0, cells + 1)
    starts = np.arange(pixels)[:, None]
    shared = np.minimum(starts + 1, edges[1:]) - np.maximum(starts, edges[:-1])
    lengths: Array = np.maximum(shared, 0.0).astype(np.float32)
    return lengths
