"""What happens to the user's image beside the networks, as pure functions of numpy arrays.

The twins of ``microforge.latent_blending``: masked pixels, the latent mask, preserved latents at the current noise level,
latents that an edit leaves alone, the final composite in pixels; ``images.resampling`` has what enlarging needs.
Images are float32 (1, 3, H, W) in [0, 1], masks (1, 1, H, W) of zeros and ones, latents (1, C, h, w).
"""

from __future__ import annotations

import numpy as np

from microforge.bundle.sampling import Level
from microforge.errors import SpecError
from microforge_runtimes.sampler import CLEAN, AfterStep, Floats, at_level


def check_mask(mask: Floats, height: int, width: int) -> Floats:
    """``mask`` as zeros and ones.

    Raises:
        SpecError: when its shape is not (1, 1, ``height``, ``width``), or no pixel is marked.
    """
    if mask.shape != (1, 1, height, width):
        raise SpecError(f"the mask is {mask.shape}; it must be (1, 1, {height}, {width}), as the image")
    binary = (mask > 0.5).astype(np.float32)
    if not binary.any():
        raise SpecError("the mask is all zero; mark the pixels that may change with 1")
    return binary


def masked(image: Floats, mask: Floats, value: float) -> Floats:
    """``image`` with ``value`` where ``mask`` is 1."""
    return np.where(mask > 0, np.float32(value), image)


def composited(image: Floats, source: Floats, mask: Floats) -> Floats:
    """``image`` where ``mask`` is 1 and ``source``, bit for bit, elsewhere."""
    return np.where(mask > 0, image, source)


def latent_mask(mask: Floats, downsample: int) -> Floats:
    """(1, 1, h, w): 1 for every latent cell with a masked pixel; such a cell may change as a whole."""
    _, _, height, width = mask.shape
    cells = mask.reshape(1, 1, height // downsample, downsample, width // downsample, downsample)
    largest: Floats = cells.max(axis=(3, 5))
    return largest


def after_step(
    known: Floats, noise: Floats, cells: Floats | None = None, distances: tuple[float, float] | None = None
) -> AfterStep | None:
    """What is done to the latent after each step, or None for nothing.

    Args:
        known: the image's latent.
        noise: that the sample started from.
        cells: (1, 1, h, w), the latent mask; None lets all latents change.
        distances: ``preserve_distances`` of the task; None leaves the final latent as sampled.
    """
    if cells is None and distances is None:
        return None

    def after(latent: Floats, level: Level | None) -> Floats:
        if cells is not None and level is not None:
            latent = np.where(cells > 0, latent, at_level(level, known, noise))
        return (
            preserve_source(latent, known, distances) if level == CLEAN and distances is not None else latent
        )

    return after


def preserve_source(latent: Floats, known: Floats, distances: tuple[float, float]) -> Floats:
    """``latent`` where it differs from ``known``, and next to there; ``known`` elsewhere.

    Latents nearer than the first distance are preserved, those beyond the second kept as sampled, between them blended.
    """
    near, far = (np.float32(value) for value in distances)
    distance = np.sqrt(np.square(latent - known).mean(axis=1, keepdims=True))  # (1, 1, h, w)
    changed = np.clip((distance - near) / (far - near), 0.0, 1.0)
    _, _, height, width = changed.shape
    padded = np.pad(changed, ((0, 0), (0, 0), (1, 1), (1, 1)))
    beside = [padded[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]
    mixed: Floats = known + np.max(beside, axis=0) * (latent - known)
    return mixed
