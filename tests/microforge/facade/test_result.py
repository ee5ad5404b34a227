"""A result's files: whole, described, and never over another by accident."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microforge import GeneratedImage
from microforge.errors import OutputError, OutputExistsError

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
RESULT = GeneratedImage(PIXELS, "a red circle", 7, 4, "generate", "abc", 0.5)


def test_save_writes_the_pixels_and_how_they_were_made(tmp_path: Path) -> None:
    path = RESULT.save(tmp_path / "new folder" / "image.png")
    assert path.is_absolute()
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), PIXELS)
        assert (image.info["prompt"], image.info["seed"], image.info["steps"]) == ("a red circle", "7", "4")


def test_save_replaces_a_file_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        RESULT.save(path)
    assert path.read_bytes() == b"mine"
    RESULT.save(path, force=True)
    assert path.read_bytes() != b"mine" and list(tmp_path.iterdir()) == [path]


def test_save_refuses_another_ending(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.png"):
        RESULT.save(tmp_path / "image.tiff")


def test_transparency_is_kept(tmp_path: Path) -> None:
    pixels = np.dstack([PIXELS, PIXELS[..., 0]])
    path = GeneratedImage(pixels, "", 0, 4, "edit", "abc", 0.5).save(tmp_path / "image.png")
    with Image.open(path) as image:
        assert image.mode == "RGBA" and np.array_equal(np.asarray(image), pixels)


def test_a_notebook_shows_the_image_and_a_terminal_one_line() -> None:
    assert RESULT._repr_png_().startswith(b"\x89PNG")
    assert repr(RESULT) == "GeneratedImage(generate, 6x8, prompt='a red circle', seed=7, 0.50 s)"
    assert RESULT.image.size == (8, 6)
