"""Every way a file can hold an image becomes RGB of one size; everything else is one DataError."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microforge.data.files.decode import decode_image
from microforge.errors import DataError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def _bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _halves(width: int = 64, height: int = 32) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def test_decode_applies_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: what was left comes on top
    for kind in ("JPEG", "PNG", "WEBP"):
        pixels = decode_image(_bytes(_halves(), kind, exif=exif), (64, 32))
        assert pixels[8, 16, 0] > 200 > 60 > pixels[8, 16, 2], kind
        assert pixels[56, 16, 2] > 200 > 60 > pixels[56, 16, 0], kind


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_decode_composites_transparency_on_white(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (16, 16), 1)
        image.putpalette([0, 0, 0, 0, 0, 255])
        data = _bytes(image, transparency=1)
    elif mode == "RGB":
        data = _bytes(Image.new("RGB", (16, 16), BLUE), transparency=BLUE)
    else:
        data = _bytes(Image.new(mode, (16, 16), 0))
    assert (decode_image(data, (8, 8)) == 255).all()


def test_decode_mixes_half_transparent_pixels_with_white() -> None:
    pixels = decode_image(_bytes(Image.new("RGBA", (8, 8), (0, 0, 0, 128))), (8, 8))
    assert np.abs(pixels.astype(int) - 127).max() <= 1


@pytest.mark.parametrize("value", [0, 257 * 100, 65535])
def test_decode_keeps_the_range_of_16_bit_grey(value: int) -> None:
    image = Image.fromarray(np.full((16, 16), value, dtype=np.uint16))
    assert (decode_image(_bytes(image), (8, 8)) == value // 257).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGB"])
def test_decode_gives_rgb_for_every_mode(mode: str) -> None:
    image = Image.new("RGB", (20, 20), "white").convert(mode)
    pixels = decode_image(_bytes(image, "JPEG" if mode == "CMYK" else "PNG"), (8, 8))
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8 and pixels.min() > 250


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_decode_takes_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _bytes(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (decode_image(data, (8, 8)) == RED).all()


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (1, 500), (500, 1), (8, 8), (900, 1200)])
def test_decode_covers_the_size_and_spares_at_most_twice_of_it(shape: tuple[int, int]) -> None:
    data = _bytes(Image.new("RGB", (shape[1], shape[0]), RED))
    assert decode_image(data, (32, 48)).shape == (32, 48, 3)
    height, width, _ = decode_image(data, (32, 48), spare=True).shape
    assert 32 <= height <= 64 and 48 <= width <= 96 and (height == 32 or width == 48)


def test_decode_keeps_the_centre_without_stretching() -> None:
    image = Image.new("RGB", (120, 40), BLUE)
    image.paste(RED, (40, 0, 80, 40))
    assert (decode_image(_bytes(image), (40, 40)) == RED).all()


def test_decode_averages_what_it_makes_smaller() -> None:
    board = np.indices((256, 256)).sum(0) % 2 * 255
    pixels = decode_image(_bytes(Image.fromarray(board.astype(np.uint8))), (16, 16))
    assert np.abs(pixels.astype(int) - 127).max() <= 4, "a fine chequerboard is grey, not moire"


def test_decode_of_a_large_photo_equals_the_full_decode_closely() -> None:
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((1600, 1200), 3)
    data = _bytes(rough, "JPEG", quality=95)
    full = np.asarray(Image.open(io.BytesIO(data)).resize((64, 48), Image.Resampling.LANCZOS), dtype=int)
    assert np.abs(decode_image(data, (48, 64)).astype(int) - full).mean() < 1.0


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decode_refuses_more_pixels_than_the_bomb_guard_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _bytes(Image.new("RGB", (40, 40)))
    for limit, says in ((1599, "has 40x40 pixels; at most 1599"), (100, "decompression bomb")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # Pillow refuses from twice the limit on
        with pytest.raises(DataError, match=says):
            decode_image(data, (8, 8))


def test_decode_names_what_is_wrong_in_one_line() -> None:
    whole = _bytes(_halves(400, 300), "JPEG")
    for data in (b"", b"not an image", whole[: len(whole) // 2], _bytes(_halves(), "TIFF"), b"<svg/>"):
        with pytest.raises(DataError, match=r"^is an? [^\n]+$"):
            decode_image(data, (8, 8))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_decode_of_damaged_files_gives_an_image_or_a_data_error(data: st.DataObject) -> None:
    whole = bytearray(_bytes(_halves(), data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP"]))))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=8)):
        whole[place] = data.draw(st.integers(0, 255))
    try:
        assert decode_image(bytes(whole[: data.draw(st.integers(0, len(whole)))]), (8, 8)).shape == (8, 8, 3)
    except DataError as error:
        assert "\n" not in str(error)
