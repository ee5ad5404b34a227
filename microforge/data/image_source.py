"""Where training images come from: the procedural world, a folder, or shards, all through one protocol.

Letters: B images, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from microforge.data.order import ExamplePlan, Examples
from microforge.data.skipped import Skipped


class ImageSource(Protocol):
    """What training asks of its data. Images are float32 (B, 3, H, W) in [0, 1], ``size`` is (height, width)."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Changes whenever ``examples`` would: it keys the latent cache."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was left out so far."""

    def describe(self) -> str:
        """One line about the data."""

    def prepare(self, size: tuple[int, int]) -> None:
        """Read what can be kept in memory, so that ``images`` is quick.

        Raises:
            DataError: when that shows that nothing can be used.
        """

    def images(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        """``rows`` of the ``count`` images of step ``step``, or windows of ``crop`` in them.

        The same seed, step and count give the same images, whatever was drawn before.
        """

    def sheet(self, count: int, size: tuple[int, int], device: str) -> Tensor:
        """Up to ``count`` fixed images for sample sheets; where possible training never draws them."""

    def statistics(self, count: int, size: tuple[int, int], device: str) -> Iterator[Tensor]:
        """About ``count`` fixed images, in batches, to measure the latents' mean and deviation on."""

    def plan(self, images: int, captions: int, seed: int) -> ExamplePlan:
        """The examples there are, when ``images`` with ``captions`` captions each are asked for."""

    def examples(
        self, plan: ExamplePlan, part: int, size: tuple[int, int], device: str
    ) -> Iterator[Examples]:
        """Batches of images, each with exactly ``plan.captions`` captions, of part ``part`` of ``plan``."""

    def prompts(self, count: int) -> tuple[str, ...]:
        """Up to ``count`` prompts for the flow's sample sheets."""
