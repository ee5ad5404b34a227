"""Fixed images that the samples of a build start from, and how a task's check is named. No torch.

An image is a formula of its size: a shaded background, a disc and a bar with soft edges. Bundle and reference are
given the same, and a golden trajectory holds the one it was recorded with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Driving, Size
from microforge_runtimes import Generator, Request

Floats = NDArray[np.float32]


def test_request(
    driving: Driving, task: str, prompt: str, seed: int, size: Size, strength: float | None = None
) -> Request:
    """The request of a checked sample at ``size``: with the fixed image, and a mask where the task needs one."""
    source = driving.tasks[task].source
    if source is None:
        return Request(prompt or None, task, seed=seed)
    factor = 1 if source.enlarge is None else source.enlarge.factors[0]
    image = _picture(size.height // factor, size.width // factor)
    mask = _mask(size) if source.mask == "required" else None
    return Request(prompt or None, task, image, mask, seed, strength=strength)


def _axes(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixel centres from 0 to 1: (H, 1) and (1, W)."""
    return (np.arange(height) + 0.5)[:, None] / height, (np.arange(width) + 0.5)[None] / width


def _picture(height: int, width: int) -> Floats:
    y, x = _axes(height, width)
    background = np.stack([0.2 + 0.5 * x + 0 * y, 0.8 - 0.4 * y + 0 * x, 0.35 + 0.3 * x * y])
    soft = 1.5 / min(height, width)

    def inside(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(0.5 - distance / soft, 0.0, 1.0)

    disc = inside(np.hypot(x - 0.34, y - 0.4) - 0.2)
    bar = inside(np.maximum(np.abs(x - 0.72), np.abs(y - 0.62) / 2) - 0.11)
    image = background
    for cover, color in ((disc, (0.9, 0.1, 0.12)), (bar, (0.1, 0.2, 0.85))):
        image = image * (1 - cover) + np.asarray(color)[:, None, None] * cover
    return image.astype(np.float32)[None]


def _mask(size: Size) -> Floats:
    """A box over a part of both objects, its edges off the latent's grid."""
    y, x = _axes(size.height, size.width)
    box = (np.abs(x - 0.5) < 0.21) & (np.abs(y - 0.47) < 0.17)
    return box.astype(np.float32)[None, None]


def open_generator(bundle: Bundle, target: str, size: Size) -> Generator:
    """What runs all tasks of ``bundle`` at ``size``, its stages kept in memory; close it after use."""
    return Generator(bundle, target, (size.height, size.width), keep_loaded=True)


def name(driving: Driving, task: str, prompt: str, size: Size) -> str:
    """A sample in words, as messages and reports name it."""
    words = repr(prompt) if prompt else "no prompt"
    return f"{words} at {size}" if task == next(iter(driving.tasks)) else f"{task} by {words} at {size}"
