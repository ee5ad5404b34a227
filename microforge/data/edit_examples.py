"""What the edit stage learns from: (source, words, target) per task, a function of seed and step alone.

``edit``: an image, an instruction and the image it asks for. ``inpaint``: an image with a grey hole, a caption
and the whole image. ``super-resolve``: the bicubic upsample of a small image, perhaps a caption, and the
large image (SPEC section 6).

Letters: B triples, H W image height and width.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from microforge.data.skipped import Skipped
from microforge.errors import DataError

#: The tasks with a source, in the order of ``spec.TASKS``.
SOURCE_TASKS = ("edit", "inpaint", "super-resolve")
#: How much larger one drawing of super-resolution makes its source, for images as large as trained on and for windows of images
#: twice as large: super-resolution draws at twice the size that is asked for and shrinks.
FACTORS_BY_ZOOM: Mapping[int, tuple[int, ...]] = types.MappingProxyType({1: (2, 4), 2: (4, 8)})
#: Share of super-resolution examples that come with a caption: it is optional there.
CAPTION_SHARE = 0.5


@dataclass(frozen=True)
class Triples:
    """B examples of one task; a text of None is no text at all.

    ``sources`` and ``targets`` are float32 (B, 3, H, W) in [0, 1]; ``masks`` (B, 1, H, W) are 1 in the hole, or
    where an edit may draw, ``factors`` (B,) say how much larger super-resolution made an image; each belongs to one task.
    """

    sources: Tensor
    texts: tuple[str | None, ...]
    targets: Tensor
    masks: Tensor | None = None
    factors: tuple[int, ...] = ()

    def __getitem__(self, row: int) -> Triples:
        """The example ``row`` alone."""
        one = slice(row, row + 1)
        masks = None if self.masks is None else self.masks[one]
        return Triples(self.sources[one], self.texts[one], self.targets[one], masks, self.factors[one])


class TripleSource(Protocol):
    """What the edit stage asks of its data."""

    name: str

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was left out so far."""

    def triples(
        self, task: str, seed: int, step: int, count: int, rows: Sequence[int], size: tuple[int, int], device: str
    ) -> Triples:  # fmt: skip
        """``rows`` of the ``count`` examples of ``task`` (one of ``SOURCE_TASKS``) at step ``step``.

        The same seed, step and count give the same examples, whatever was drawn before and whichever rows are
        asked for.
        """


def task_rng(task: str, seed: int, step: int) -> np.random.Generator:
    """The numpy generator of one task's examples at one step.

    Raises:
        DataError: for an unknown task.
    """
    if task not in SOURCE_TASKS:
        raise DataError(f"unknown task {task!r}; allowed: {', '.join(SOURCE_TASKS)}")
    # three numbers: a stream apart from step_rng's two; 1 is order's shuffling
    return np.random.default_rng([seed, step, 2 + SOURCE_TASKS.index(task)])


def inpaint_examples(images: Tensor, texts: tuple[str | None, ...], masks: Tensor) -> Triples:
    """Examples of inpaint_examples from whole ``images`` (B, 3, H, W) and ``masks`` (B, 1, H, W)."""
    return Triples(masked_with_grey(images, masks), texts, images, masks)


def super_resolve_examples(
    images: Tensor, texts: tuple[str | None, ...], rngs: Sequence[np.random.Generator], zooms: Sequence[int] | None = None
) -> Triples:  # fmt: skip
    """Examples of super-resolution from large ``images`` (B, 3, H, W); each ``rng`` picks factor and text.

    Args:
        zooms: keys of ``FACTORS_BY_ZOOM``, one for each image; 1 by default.
    """
    sources, said, factors = [], [], []
    for image, text, rng, zoom in zip(images, texts, rngs, zooms or [1] * len(images), strict=True):
        allowed = FACTORS_BY_ZOOM[zoom]
        factor = allowed[int(rng.integers(len(allowed)))]
        sources.append(upsampled(downsampled(image[None], factor), factor)[0])
        said.append(text if rng.random() < CAPTION_SHARE else None)
        factors.append(factor)
    return Triples(torch.stack(sources), tuple(said), images, factors=tuple(factors))


def downsampled(images: Tensor, factor: int) -> Tensor:
    """``images`` (B, 3, H, W) ``factor`` times smaller, anti-aliased; H and W are multiples of ``factor``."""
    size = (images.shape[2] // factor, images.shape[3] // factor)
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


def upsampled(images: Tensor, factor: int) -> Tensor:
    """The bicubic upsample that super-resolution starts from, as in ``MicroForgePipeline.super_resolve``."""
    return F.interpolate(images, scale_factor=factor, mode="bicubic", antialias=False).clamp(0, 1)


def masked_with_grey(images: Tensor, masks: Tensor) -> Tensor:
    """``images`` (B, 3, H, W) with middle grey where ``masks`` (B, 1, H, W) is 1 (SPEC section 6)."""
    return torch.where(masks > 0, images.new_tensor(0.5), images)
