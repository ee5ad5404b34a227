"""The protocol of a data set of training images: the procedural world, a folder of images, or shards.

Letters: B images, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from microforge.data.order import ExamplePlan, Examples
from microforge.data.skipped import Skipped


class ImageSource(Protocol):
    """Data set of training images. Images are float32 (B, 3, H, W) in [0, 1]; ``size`` is (height, width)."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Hash that changes whenever ``examples`` would; it identifies the latent cache."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Files that could not be used so far."""

    def describe(self) -> str:
        """One line about the data set."""

    def prepare(self, size: tuple[int, int]) -> None:
        """Decode the images that fit in memory, so that ``images`` is fast.

        Raises:
            DataError: when no image can be decoded.
        """

    def images(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        """``rows`` of the ``count`` images of step ``step``, or crops of size ``crop`` from them.

        The same seed, step and count give the same images, independent of earlier calls.
        """

    def images_with_alpha(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        """The same images with a fourth channel (B, 4, H, W): how much of each pixel objects cover.

        Raises:
            DataError: when the data do not say what is an object.
        """

    def sheet(self, count: int, size: tuple[int, int], device: str) -> Tensor:
        """Up to ``count`` fixed images for sample sheets, held out from training where possible."""

    def statistics(self, count: int, size: tuple[int, int], device: str) -> Iterator[Tensor]:
        """Batches of about ``count`` fixed images, on which the latents' mean and deviation are measured."""

    def plan(self, images: int, captions: int, seed: int) -> ExamplePlan:
        """Plan of the examples to enumerate, when ``images`` with ``captions`` captions each are requested."""

    def examples(
        self, plan: ExamplePlan, part: int, size: tuple[int, int], device: str
    ) -> Iterator[Examples]:
        """Batches of images of part ``part`` of ``plan``, each image with exactly ``plan.captions`` captions."""

    def prompts(self, count: int) -> tuple[str, ...]:
        """Up to ``count`` prompts for the sample sheets of flow training."""
