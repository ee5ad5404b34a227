"""A source image or a mask is the same whatever form it comes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from microforge import GeneratedImage
from microforge.errors import DataError
from microforge.facade.images import ImageLike, mask_pixels, source_image
from microforge_runtimes.images.image_file import SourceImage
from microforge_runtimes.marks.settings import Settings

SETTINGS = Settings(task="edit", prompt=None, seed=0, steps=1, height=1, width=1, bundle="a", target="onnx")
SIDES = st.tuples(st.integers(1, 5), st.integers(1, 5))


def _source(size: tuple[int, int]) -> SourceImage:
    return SourceImage(np.zeros((*size, 3), np.uint8))


@given(SIDES.flatmap(lambda sides: arrays(np.uint8, (*sides, 4))))
def test_a_path_an_image_a_result_and_arrays_are_the_same_source(pixels: Any) -> None:
    image = Image.fromarray(pixels)
    forms: list[ImageLike] = [
        image, pixels, pixels.astype(np.float32) / 255, pixels / 255.0, GeneratedImage(pixels, SETTINGS, 0.0),
    ]  # fmt: skip
    for form in forms:
        picture = source_image(form)
        assert picture.alpha is not None
        assert np.array_equal(np.dstack([picture.stored, picture.alpha]), pixels)


def test_a_file_is_the_same_source_as_its_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (4, 6, 4), np.uint8)
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK"):
        image = Image.fromarray(pixels).convert("RGB" if mode == "CMYK" else "RGBA")
        image = image.convert(mode)
        path = tmp_path / ("image.jpg" if mode == "CMYK" else f"image-{mode}.png")
        image.save(path)
        with Image.open(path) as stored:
            first, second, third = source_image(str(path)), source_image(path), source_image(stored)
        assert np.array_equal(first.stored, third.stored) and np.array_equal(second.stored, third.stored)
        assert (first.alpha is None) == (third.alpha is None) == (mode not in ("RGBA", "LA", "P"))


def test_exif_orientation_is_applied_to_images_in_memory() -> None:
    image = Image.fromarray(np.zeros((2, 5, 3), np.uint8))
    image.getexif()[0x0112] = 6
    assert source_image(image).size == (5, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"uint8\[4, 4, 2\]; allowed"),
        (np.zeros((1, 4, 4, 3), np.uint8), "allowed"),
        (np.zeros((0, 4, 3), np.uint8), "allowed"),
        (np.full((4, 4, 3), 2.0), r"outside \[0, 1\]"),
        (np.full((4, 4, 3), np.nan), r"outside \[0, 1\]"),
        (np.zeros((4, 4, 3), np.int64), r"int64\[4, 4, 3\]; allowed"),
        (Image.new("I;16", (4, 4)), "8 bits"),
        (Image.new("F", (4, 4)), "8 bits"),
    ],
)
def test_other_images_are_refused(values: ImageLike, message: str) -> None:
    with pytest.raises(DataError, match=message):
        source_image(values)


@given(SIDES.flatmap(lambda sides: arrays(np.bool_, sides)))
def test_a_mask_is_the_same_in_every_form(mask: Any) -> None:
    forms: list[ImageLike] = [
        mask, mask.astype(np.uint8) * 255, mask.astype(np.float32), mask[..., None], Image.fromarray(mask),
    ]  # fmt: skip
    if not mask.any():
        with pytest.raises(DataError, match="is black"):
            mask_pixels(mask, _source(mask.shape))
        return
    for form in forms:
        assert np.array_equal(mask_pixels(form, _source(mask.shape)), mask)


def test_transparency_counts_as_black_in_a_mask(tmp_path: Path) -> None:
    pixels = np.full((2, 2, 4), 255, np.uint8)
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    for form in (Image.fromarray(pixels), tmp_path / "mask.png"):
        assert mask_pixels(form, _source((2, 2))).tolist() == [[False, True], [True, True]]
