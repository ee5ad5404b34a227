"""The result of every job: an image, and how it was made."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from microforge.errors import OutputError
from microforge.io.atomic import atomic_bytes
from microforge.version import __version__


@dataclass(frozen=True, eq=False)
class GeneratedImage:
    """One generated image.

    Attributes:
        array: pixels, (H, W, 3) uint8, or (H, W, 4) where the source image has transparency.
        prompt: what it was generated from; empty for the empty prompt.
        seed: of the initial noise; the same seed gives the same image on every device.
        steps: sampling steps.
        task: ``generate``, ``edit``, ``inpaint`` or ``super-resolve``.
        model: the first digits of the hash of the bundle or the checkpoint.
        seconds: wall time of the call, networks that had to be loaded included.
        truncated: whether the end of the prompt was cut off.
    """

    array: NDArray[np.uint8]
    prompt: str
    seed: int
    steps: int
    task: str
    model: str
    seconds: float
    truncated: bool = False

    @property
    def image(self) -> Image.Image:
        """The pixels as a Pillow image."""
        return Image.fromarray(self.array)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.array.shape[0], self.array.shape[1]

    def save(self, path: str | Path, force: bool = False) -> Path:
        """Write a PNG with its settings in text chunks; the file appears whole or not at all.

        Args:
            path: a name that ends in ``.png``; missing folders are made.
            force: replace an existing file.

        Returns:
            The absolute path of the file.

        Raises:
            OutputExistsError: when the file exists and ``force`` is off.
            OutputError: for another ending, a folder, or a disk that cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise OutputError(f"{path} is not a PNG file; give a name that ends in .png")
        atomic_bytes(path, self._png(), force)
        return path.absolute()

    def _png(self) -> bytes:
        height, width = self.size
        settings = {
            "Software": f"microforge {__version__}",
            "prompt": self.prompt,
            "seed": str(self.seed),
            "bundle": self.model,
            "size": f"{height}x{width}",
            "steps": str(self.steps),
            "task": self.task,
        }
        info = PngInfo()
        for key, value in settings.items():
            info.add_text(key, value)
        stream = io.BytesIO()
        self.image.save(stream, "PNG", pnginfo=info)
        return stream.getvalue()

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return self._png()

    def __repr__(self) -> str:
        height, width = self.size
        return f"GeneratedImage({self.task}, {height}x{width}, prompt={self.prompt!r}, seed={self.seed}, {self.seconds:.2f} s)"
