"""Training examples of the tasks with a source image: (source, text, target) triples.

- ``edit``: a source image, an instruction, and the image that the instruction asks for.
- ``inpaint``: an image whose masked pixels are grey, a caption, and the whole image.
- ``super-resolve``: the bicubic upsample of a small image, perhaps a caption, and the large image.

Examples are a pure function of the seed and the step number. Letters: B triples, H W image height and width.
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

#: The tasks with a source image, in the order of ``spec.TASKS``.
SOURCE_TASKS = ("edit", "inpaint", "super-resolve")
#: Zoom of the image -> scale factors between the small image and the target. Zoom 1 is a whole image. Zoom 2 is a crop
#: of an image of twice the size: inference super-resolves at twice the requested size, then downsamples.
FACTORS_BY_ZOOM: Mapping[int, tuple[int, ...]] = types.MappingProxyType({1: (2, 4), 2: (4, 8)})
#: Share of super-resolution examples with a caption, which is optional in this task.
CAPTION_SHARE = 0.5


@dataclass(frozen=True)
class Triples:
    """A batch of B examples of one task.

    Attributes:
        sources: float32 (B, 3, H, W) in [0, 1].
        texts: instruction or caption of each example; None is the empty prompt.
        targets: float32 (B, 3, H, W) in [0, 1].
        masks: (B, 1, H, W), 1 on pixels that inpainting fills or that an edit may change; None for other tasks.
        factors: scale factor of each example of super-resolution (B,); empty for other tasks.
    """

    sources: Tensor
    texts: tuple[str | None, ...]
    targets: Tensor
    masks: Tensor | None = None
    factors: tuple[int, ...] = ()

    def __getitem__(self, row: int) -> Triples:
        """The example ``row`` as a batch of one."""
        one = slice(row, row + 1)
        masks = None if self.masks is None else self.masks[one]
        return Triples(self.sources[one], self.texts[one], self.targets[one], masks, self.factors[one])


class TripleSource(Protocol):
    """Data set of examples for the tasks with a source image."""

    name: str

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Files that could not be used so far."""

    def triples(
        self, task: str, seed: int, step: int, count: int, rows: Sequence[int], size: tuple[int, int], device: str
    ) -> Triples:  # fmt: skip
        """``rows`` of the ``count`` examples that step ``step`` has of ``task``, one of ``SOURCE_TASKS``.

        The same seed, step and count give the same examples, independent of earlier calls and of ``rows``.
        """


def task_rng(task: str, seed: int, step: int) -> np.random.Generator:
    """Numpy generator for the examples of one task at one step.

    Raises:
        DataError: for an unknown task.
    """
    if task not in SOURCE_TASKS:
        raise DataError(f"unknown task {task!r}; allowed: {', '.join(SOURCE_TASKS)}")
    # The third number keeps these streams apart from step_rng (two numbers) and from order's shuffling (1).
    return np.random.default_rng([seed, step, 2 + SOURCE_TASKS.index(task)])


def inpaint_examples(images: Tensor, texts: tuple[str | None, ...], masks: Tensor) -> Triples:
    """Inpainting examples from whole ``images`` (B, 3, H, W) and ``masks`` (B, 1, H, W)."""
    return Triples(masked_with_grey(images, masks), texts, images, masks)


def super_resolve_examples(
    images: Tensor, texts: tuple[str | None, ...], rngs: Sequence[np.random.Generator], zooms: Sequence[int] | None = None
) -> Triples:  # fmt: skip
    """Super-resolution examples from large ``images`` (B, 3, H, W).

    Args:
        images: the targets.
        texts: captions, of which ``CAPTION_SHARE`` are used.
        rngs: one generator per image; it chooses the scale factor and whether the caption is used.
        zooms: keys of ``FACTORS_BY_ZOOM``, one per image; 1 by default.
    """
    sources, captions, factors = [], [], []
    for image, text, rng, zoom in zip(images, texts, rngs, zooms or [1] * len(images), strict=True):
        allowed = FACTORS_BY_ZOOM[zoom]
        factor = allowed[int(rng.integers(len(allowed)))]
        sources.append(upsampled(downsampled(image[None], factor), factor)[0])
        captions.append(text if rng.random() < CAPTION_SHARE else None)
        factors.append(factor)
    return Triples(torch.stack(sources), tuple(captions), images, factors=tuple(factors))


def downsampled(images: Tensor, factor: int) -> Tensor:
    """Anti-aliased bicubic downsampling of ``images`` (B, 3, H, W); H and W are multiples of ``factor``."""
    size = (images.shape[2] // factor, images.shape[3] // factor)
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


def upsampled(images: Tensor, factor: int) -> Tensor:
    """Bicubic upsampling of ``images`` (B, 3, H, W), as in ``MicroForgePipeline.super_resolve``."""
    return F.interpolate(images, scale_factor=factor, mode="bicubic", antialias=False).clamp(0, 1)


def masked_with_grey(images: Tensor, masks: Tensor) -> Tensor:
    """``images`` (B, 3, H, W) with middle grey where ``masks`` (B, 1, H, W) is 1."""
    return torch.where(masks > 0, images.new_tensor(0.5), images)
