"""Whole drawings of every task through the shipped runtime, and the fixed sources that they start from. No torch.

A source is a formula of the image size: a shaded background, a disc and a bar with soft edges. Bundle and
reference are given the same, and a golden trajectory holds the one it was recorded with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Size, Task
from microforge_runtimes import Editor, Generator
from microforge_runtimes.editor import SOURCE_TASKS
from microforge_runtimes.latent_blending import composited

Floats = NDArray[np.float32]
#: How much larger the checked drawing of super-resolution makes its source.
SUPER_RESOLVE_FACTOR = 2


@dataclass(frozen=True)
class Given:
    """What a drawing starts from: ``source`` (1, 3, H, W) in [0, 1], small for super-resolve; ``mask`` (1, 1, H, W)."""

    source: Floats
    mask: Floats | None = None


def given(task: Task, size: Size) -> Given | None:
    """The fixed source, and mask, of a checked drawing of ``task``; None for generate."""
    if task not in SOURCE_TASKS:
        return None
    if task == "super-resolve":
        return Given(_picture(size.height // SUPER_RESOLVE_FACTOR, size.width // SUPER_RESOLVE_FACTOR))
    return Given(_picture(size.height, size.width), _hole(size) if task == "inpaint" else None)


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


def _hole(size: Size) -> Floats:
    """A box over a part of both objects, its edges off the latent's grid."""
    y, x = _axes(size.height, size.width)
    hole = (np.abs(x - 0.5) < 0.21) & (np.abs(y - 0.47) < 0.17)
    return hole.astype(np.float32)[None, None]


def open_generator(bundle: Bundle, target: str, size: Size) -> Generator:
    """The generator of all tasks of ``bundle`` at ``size``, its stages kept in memory; close it after use."""
    kind = Editor if set(bundle.manifest.tasks) & set(SOURCE_TASKS) else Generator
    return kind(bundle, target, (size.height, size.width), keep_loaded=True)


def draw_float(generator: Generator, task: Task, prompt: str, seed: int, start: Given | None) -> Floats:
    """The image (1, 3, H, W) that ``generator`` makes, before it is rounded to bytes.

    Args:
        prompt: empty for no words, where the task can do without.
        start: what a task with a source starts from.
    """
    if start is None:
        return generator.decode(generator.generate(prompt, seed).z)
    if not isinstance(generator, Editor):
        raise TypeError(f"{task} needs an Editor")
    words = prompt or None
    if start.mask is not None:
        z = generator.inpaint(start.source, start.mask, words, seed).z
        return composited(generator.decode(z), start.source, start.mask)
    if task == "super-resolve":
        return generator.decode(generator.super_resolve(start.source, SUPER_RESOLVE_FACTOR, words, seed).z)
    return generator.decode(generator.edit(start.source, words, seed).z)


def name(task: Task, prompt: str, size: Size) -> str:
    """A drawing in words, as messages and reports name it."""
    words = repr(prompt) if prompt else "no words"
    return f"{words} at {size}" if task == "generate" else f"{task} by {words} at {size}"
