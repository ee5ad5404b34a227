"""A result's files: whole, described, and never over another by accident."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from microforge import GeneratedImage
from microforge.errors import OutputError, OutputExistsError
from microforge_runtimes.marks.settings import Settings, parse_settings
from microforge_runtimes.marks.xmp import read_marks

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
SETTINGS = Settings(
    task="generate", prompt="a red circle", seed=7, steps=4, height=6, width=8, bundle="abc", target="onnx"
)  # fmt: skip
RESULT = GeneratedImage(PIXELS, SETTINGS, 0.5)


def test_save_writes_the_pixels_and_how_they_were_made(tmp_path: Path) -> None:
    path = RESULT.save(tmp_path / "new folder" / "image.png")
    assert path.is_absolute()
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), PIXELS)
        assert (image.info["prompt"], image.info["seed"], image.info["steps"]) == ("a red circle", "7", "4")


def test_a_saved_image_says_that_it_is_generated_and_with_which_settings_unless_private(
    tmp_path: Path,
) -> None:
    for name in ("image.png", "image.jpg", "image.webp"):
        marks = read_marks(RESULT.save(tmp_path / name).read_bytes())
        assert marks is not None and marks.source_type == "trainedAlgorithmicMedia"
        assert marks.settings is not None and parse_settings(marks.settings) == SETTINGS
        private = read_marks(RESULT.save(tmp_path / name, force=True, private=True).read_bytes())
        assert private is not None and private.source_type == marks.source_type and private.settings is None


def test_the_colour_profile_of_the_source_goes_into_the_file(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = GeneratedImage(PIXELS, SETTINGS, 0.5, icc=icc).save(tmp_path / "image.png")
    with Image.open(path) as image:
        assert image.info["icc_profile"] == icc


def test_save_replaces_a_file_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        RESULT.save(path)
    assert path.read_bytes() == b"mine"
    RESULT.save(path, force=True)
    assert path.read_bytes() != b"mine" and list(tmp_path.iterdir()) == [path]


def test_save_refuses_another_ending(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"must end in one of \.png"):
        RESULT.save(tmp_path / "image.tiff")


def test_transparency_is_kept(tmp_path: Path) -> None:
    pixels = np.dstack([PIXELS, PIXELS[..., 0]])
    path = GeneratedImage(pixels, SETTINGS, 0.5).save(tmp_path / "image.png")
    with Image.open(path) as image:
        assert image.mode == "RGBA" and np.array_equal(np.asarray(image), pixels)


def test_a_notebook_shows_the_image_and_a_terminal_one_line() -> None:
    assert RESULT._repr_png_().startswith(b"\x89PNG")
    assert repr(RESULT) == "GeneratedImage(generate, 6x8, prompt='a red circle', seed=7, 0.50 s)"
    assert RESULT.image.size == (8, 6)
