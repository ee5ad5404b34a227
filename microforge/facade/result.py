"""The result of every job: an image, and the settings that it was generated with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microforge.io.atomic import atomic_bytes, check_output
from microforge_runtimes.marks.image_encoding import Format, encode_image, image_format
from microforge_runtimes.marks.settings import Settings
from microforge_runtimes.marks.xmp import SourceType


@dataclass(frozen=True, eq=False)
class GeneratedImage:
    """One generated image.

    Attributes:
        array: pixels, (H, W, 3) uint8, or (H, W, 4) where the source image has transparency.
        settings: all that it takes to generate the image again.
        seconds: wall time of the call, networks that had to be loaded included.
        truncated: whether the end of the prompt was cut off.
        icc: colour profile of the source image, which the pixels have too; None is sRGB.
    """

    array: NDArray[np.uint8]
    settings: Settings
    seconds: float
    truncated: bool = False
    icc: bytes | None = None

    @property
    def image(self) -> Image.Image:
        """The pixels as a Pillow image."""
        image = Image.fromarray(self.array)
        if self.icc is not None:
            image.info["icc_profile"] = self.icc
        return image

    @property
    def prompt(self) -> str:
        """The prompt; empty for the empty prompt."""
        return self.settings.prompt or ""

    @property
    def seed(self) -> int:
        """The seed of the initial noise; the same seed gives the same image on every device."""
        return self.settings.seed

    @property
    def steps(self) -> int:
        """Sampling steps."""
        return self.settings.steps

    @property
    def task(self) -> str:
        """The job: generate, edit, inpaint, super-resolve or vary."""
        return self.settings.task

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.array.shape[0], self.array.shape[1]

    def save(self, path: str | Path, force: bool = False, private: bool = False) -> Path:
        """Write an image file that is marked as generated; it appears whole or not at all.

        Args:
            path: a name that ends in .png, .jpg or .webp; missing folders are made.
            force: replace an existing file.
            private: leave the prompt and all other settings out of the file.

        Returns:
            The absolute path of the file.

        Raises:
            OutputExistsError: when the file exists and ``force`` is off.
            OutputError: for another ending, a folder, a disk that cannot be written, or transparency in a JPEG.
        """
        path = Path(path)
        file_format = image_format(path)
        check_output(path, force)
        atomic_bytes(path, self._encoded(file_format, private), force)
        return path.absolute()

    def _encoded(self, file_format: Format, private: bool = False) -> bytes:
        source_type: SourceType = "compositeWithTrainedAlgorithmicMedia"
        if self.task == "generate":
            source_type = "trainedAlgorithmicMedia"
        return encode_image(
            self.array, file_format, source_type, None if private else self.settings, self.icc
        )

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return self._encoded("PNG")

    def __repr__(self) -> str:
        height, width = self.size
        return f"GeneratedImage({self.task}, {height}x{width}, prompt={self.prompt!r}, seed={self.seed}, {self.seconds:.2f} s)"
