"""Smaller, larger, and larger without contradicting the smaller one: bicubic resampling as products with matrices.

Images are float32 (1, 3, H, W) in [0, 1]. Every axis is resampled by a matrix of its own, as torch's
``interpolate(mode="bicubic")`` does it, so PyTorch pipeline and runtime agree. No torch.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from microforge.errors import SpecError
from microforge_runtimes.sampler import Floats

#: Factors by which one generated image may enlarge its part of the source.
MAGNIFICATIONS = (2, 4, 8)
#: Slopes of Keys' kernel that torch uses to enlarge, and to shrink with anti-aliasing.
_SLOPE, _SMOOTH_SLOPE = -0.75, -0.5


def upsampled(image: Floats, factor: int) -> Floats:
    """``image`` (1, 3, h, w) ``factor`` times larger, bicubic, clipped to [0, 1].

    The same as torch's ``interpolate(mode="bicubic", align_corners=False)``: pixel centres, borders repeated.

    Raises:
        SpecError: for a factor that is not one of ``MAGNIFICATIONS``.
    """
    if factor not in MAGNIFICATIONS:
        allowed = ", ".join(map(str, MAGNIFICATIONS))
        raise SpecError(f"the factor of one super-resolved image is {factor}; allowed: {allowed}")
    matrices = (_enlarging(side, factor) for side in image.shape[2:])
    return np.clip(_resampled(image, *matrices), 0.0, 1.0).astype(np.float32)


def shrunk(image: Floats, factor: int) -> Floats:
    """``image`` (1, 3, H, W) ``factor`` times smaller, bicubic with anti-aliasing, clipped to [0, 1].

    The same as torch's ``interpolate(mode="bicubic", antialias=True)``; H and W are multiples of ``factor``.
    """
    matrices = (_shrinking(side // factor, factor) for side in image.shape[2:])
    return np.clip(_resampled(image, *matrices), 0.0, 1.0).astype(np.float32)


def consistent(image: Floats, source: Floats, factor: int) -> Floats:
    """``image`` (1, 3, H, W) moved as little as possible to where, shrunk by ``factor``, it is ``source`` (1, 3, h, w).

    The orthogonal projection onto all images that shrink to the source: ``x + D+ (s - D x)``. The true image is among
    them, so no step of it leads away from the truth (null-space view of super-resolution, DDNM, arXiv 2212.00490).
    """
    downs = [_shrinking(side, factor) for side in source.shape[2:]]
    missing = source[0].astype(np.float64) - _resampled(image, *downs)[0]
    ups = [_inverse(side, factor) for side in source.shape[2:]]
    moved = image[0] + ups[0] @ missing @ ups[1].T
    projected: Floats = np.clip(moved, 0.0, 1.0).astype(np.float32)[None]
    return projected


def _resampled(image: Floats, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1, 3, H', W'): both axes of ``image`` through a matrix each."""
    resampled: NDArray[np.float64] = (rows @ image[0].astype(np.float64) @ columns.T)[None]
    return resampled


@functools.lru_cache(maxsize=8)
def _enlarging(side: int, factor: int) -> NDArray[np.float64]:
    """(side * factor, side): what every pixel of one axis takes from the pixels before."""
    places = (np.arange(side * factor) + 0.5) / factor - 0.5
    first = np.floor(places).astype(int)
    matrix = np.zeros((side * factor, side))
    for offset in (-1, 0, 1, 2):
        taps = _kernel(np.abs(places - (first + offset)), _SLOPE)
        np.add.at(matrix, (np.arange(len(places)), np.clip(first + offset, 0, side - 1)), taps)
    return matrix


@functools.lru_cache(maxsize=8)
def _shrinking(side: int, factor: int) -> NDArray[np.float64]:
    """(side, side * factor): the kernel widened by the factor, cut at the borders, its taps summing to 1."""
    centres = (np.arange(side) + 0.5) * factor
    pixels = np.arange(side * factor) + 0.5
    taps = _kernel(np.abs(pixels[None] - centres[:, None]) / factor, _SMOOTH_SLOPE)
    matrix: NDArray[np.float64] = taps / taps.sum(1, keepdims=True)
    return matrix


@functools.lru_cache(maxsize=8)
def _inverse(side: int, factor: int) -> NDArray[np.float64]:
    """(side * factor, side): the pseudo-inverse of ``_shrinking``."""
    down = _shrinking(side, factor)
    inverse: NDArray[np.float64] = np.asarray(np.linalg.solve(down @ down.T, down).T, np.float64)
    return inverse


def _kernel(distance: NDArray[np.float64], slope: float) -> NDArray[np.float64]:
    """Keys' cubic convolution (1981) at a distance in pixels; nothing from 2 on."""
    near = ((slope + 2.0) * distance - (slope + 3.0)) * distance**2 + 1.0
    far = ((slope * distance - 5.0 * slope) * distance + 8.0 * slope) * distance - 4.0 * slope
    weights = np.zeros(distance.shape)
    weights[distance < 2.0] = far[distance < 2.0]
    weights[distance <= 1.0] = near[distance <= 1.0]
    return weights
