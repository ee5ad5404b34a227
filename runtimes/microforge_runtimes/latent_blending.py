"""What happens to a source before and after the networks, as pure functions of numpy arrays (SPEC section 6).

The twins of ``MicroForgePipeline``'s own and of ``microforge.latent_blending``: grey holes, cells that are redrawn, known
cells blended back at the current noise level, cells that an edit leaves alone, the final composite in pixels;
``resampling`` has what super-resolution needs.
Images are float32 (1, 3, H, W) in [0, 1], masks (1, 1, H, W) of zeros and ones.
"""

from __future__ import annotations

import numpy as np

from microforge.errors import SpecError
from microforge_runtimes.sampler import AfterStep, Floats

#: What stands in a hole before it is filled.
GREY = np.float32(0.5)


def check_mask(mask: Floats, height: int, width: int) -> Floats:
    """``mask`` as zeros and ones.

    Raises:
        SpecError: for another size than (1, 1, ``height``, ``width``), or without a pixel to draw.
    """
    if mask.shape != (1, 1, height, width):
        raise SpecError(f"the mask is {mask.shape}; it must be (1, 1, {height}, {width}), as the source")
    hole = (mask > 0.5).astype(np.float32)
    if not hole.any():
        raise SpecError("the mask is all zero; mark the pixels to draw with 1")
    return hole


def with_hole(image: Floats, mask: Floats) -> Floats:
    """``image`` grey where ``mask`` is 1."""
    return np.where(mask > 0, GREY, image)


def composited(image: Floats, source: Floats, mask: Floats) -> Floats:
    """``image`` where ``mask`` is 1 and ``source``, bit for bit, elsewhere."""
    return np.where(mask > 0, image, source)


def latent_mask(mask: Floats, downsample: int) -> Floats:
    """(1, 1, h, w): 1 for every latent cell with a masked pixel, which is redrawn as a whole."""
    _, _, height, width = mask.shape
    cells = mask.reshape(1, 1, height // downsample, downsample, width // downsample, downsample)
    largest: Floats = cells.max(axis=(3, 5))
    return largest


def after_step(
    known: Floats, noise: Floats, hole: Floats | None = None, unchanged: tuple[float, float] | None = None
) -> AfterStep | None:
    """What is done to the latent after each step, or None for nothing.

    Args:
        known, noise: (1, C, h, w), the source's latent and what the drawing started from.
        hole: (1, 1, h, w), the cells that are drawn; None: all.
        unchanged: of an edit, as the manifest's sampler has it; None: cells are left as drawn.
    """
    if hole is None and unchanged is None:
        return None

    def after(z: Floats, t: float) -> Floats:
        if hole is not None:
            z = blended(z, t, known, noise, hole)
        return preserve_source(z, known, unchanged) if t == 0.0 and unchanged is not None else z

    return after


def preserve_source(z: Floats, known: Floats, unchanged: tuple[float, float]) -> Floats:
    """``z`` (1, C, h, w) where it differs from ``known``, and next to there; ``known`` elsewhere.

    Cells nearer than the first distance are unchanged, those beyond the second changed, the others a mixture.
    """
    near, far = (np.float32(value) for value in unchanged)
    distance = np.sqrt(np.square(z - known).mean(axis=1, keepdims=True))  # (1, 1, h, w)
    changed = np.clip((distance - near) / (far - near), 0.0, 1.0)
    _, _, height, width = changed.shape
    padded = np.pad(changed, ((0, 0), (0, 0), (1, 1), (1, 1)))
    beside = [padded[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]
    mixed: Floats = known + np.max(beside, axis=0) * (z - known)
    return mixed


def blended(z: Floats, t: float, known: Floats, noise: Floats, hole: Floats) -> Floats:
    """``z`` in the hole, and elsewhere the ``known`` latent (1, C, h, w) at the noise level of time ``t``."""
    noised = np.float32(1.0 - t) * known + np.float32(t) * noise
    mixed: Floats = hole * z + (np.float32(1.0) - hole) * noised
    return mixed
