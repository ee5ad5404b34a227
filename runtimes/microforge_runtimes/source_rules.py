"""What happens to a source before and after the networks, as pure functions of numpy arrays (SPEC section 6).

The twins of ``MicroForgePipeline``'s own: grey holes, cells that are redrawn, known cells blended back at the
current noise level, the bicubic upsample that super-resolution starts from, the final composite in pixels.
Images are float32 (1, 3, H, W) in [0, 1], masks (1, 1, H, W) of zeros and ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from microforge.errors import SpecError
from microforge_runtimes.sampler import Floats

#: How much larger super-resolution makes an image.
FACTORS = (2, 4)
#: What stands in a hole before it is filled.
GREY = np.float32(0.5)
#: Keys' kernel with the slope that torch uses.
_SLOPE = -0.75


def check_mask(mask: Floats, height: int, width: int) -> Floats:
    """``mask`` as zeros and ones.

    Raises:
        SpecError: for another size than (1, 1, ``height``, ``width``), or without a pixel to fill.
    """
    if mask.shape != (1, 1, height, width):
        raise SpecError(
            f"the inpainting mask is {mask.shape}; it must be (1, 1, {height}, {width}), as the source"
        )
    hole = (mask > 0.5).astype(np.float32)
    if not hole.any():
        raise SpecError("the inpainting mask is all zero; mark the pixels to fill with 1")
    return hole


def with_hole(image: Floats, mask: Floats) -> Floats:
    """``image`` grey where ``mask`` is 1."""
    return np.where(mask > 0, GREY, image)


def composited(image: Floats, source: Floats, mask: Floats) -> Floats:
    """``image`` where ``mask`` is 1 and ``source``, bit for bit, elsewhere."""
    return np.where(mask > 0, image, source)


def hole_cells(mask: Floats, downsample: int) -> Floats:
    """(1, 1, h, w): 1 for every latent cell with a masked pixel, which is redrawn as a whole."""
    _, _, height, width = mask.shape
    cells = mask.reshape(1, 1, height // downsample, downsample, width // downsample, downsample)
    largest: Floats = cells.max(axis=(3, 5))
    return largest


def blended(z: Floats, t: float, known: Floats, noise: Floats, hole: Floats) -> Floats:
    """``z`` in the hole, and elsewhere the ``known`` latent (1, C, h, w) at the noise level of time ``t``."""
    noised = np.float32(1.0 - t) * known + np.float32(t) * noise
    mixed: Floats = hole * z + (np.float32(1.0) - hole) * noised
    return mixed


def upsampled(image: Floats, factor: int) -> Floats:
    """``image`` (1, 3, h, w) ``factor`` times larger, bicubic, clipped to [0, 1].

    The same as torch's ``interpolate(mode="bicubic", align_corners=False)``: pixel centres, borders repeated.

    Raises:
        SpecError: for a factor that is not one of ``FACTORS``.
    """
    if factor not in FACTORS:
        raise SpecError(f"super-resolution factor is {factor}; allowed: {', '.join(map(str, FACTORS))}")
    _, _, height, width = image.shape
    tall = _matrix(height, factor) @ image[0].astype(np.float64)  # (3, H, w)
    larger: Floats = np.clip(tall @ _matrix(width, factor).T, 0.0, 1.0).astype(np.float32)[None]
    return larger


def _matrix(side: int, factor: int) -> NDArray[np.float64]:
    """(side * factor, side): what every pixel of one axis takes from the pixels before."""
    places = (np.arange(side * factor) + 0.5) / factor - 0.5
    first = np.floor(places).astype(int)
    matrix = np.zeros((side * factor, side))
    for offset in (-1, 0, 1, 2):
        taps = _kernel(np.abs(places - (first + offset)))
        np.add.at(matrix, (np.arange(len(places)), np.clip(first + offset, 0, side - 1)), taps)
    return matrix


def _kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution (1981) at a distance of 0 to 2 pixels."""
    near = ((_SLOPE + 2.0) * distance - (_SLOPE + 3.0)) * distance**2 + 1.0
    far = ((_SLOPE * distance - 5.0 * _SLOPE) * distance + 8.0 * _SLOPE) * distance - 4.0 * _SLOPE
    return np.where(distance <= 1.0, near, far)
