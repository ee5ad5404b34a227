"""Reading a user's images: upright, 8 bits, alpha kept; what cannot be used is named in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microforge.errors import DataError
from microforge_runtimes.images.image_file import SourceImage, read_mask, read_source_image
from tests.microforge.io.images import P3, RED, base_mask, base_picture, matrix_profile


def _saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_read_source_image_turns_a_phone_photo_upright(tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 30), "blue")
    wide.paste("red", (0, 0, 20, 30))  # the left half of what the sensor saw
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    found = read_source_image(_saved(tmp_path / "photo.jpg", wide, exif=exif, quality=95))
    assert found.size == (40, 30) and found.alpha is None
    assert found.stored[5, 15, 0] > 200 and found.stored[35, 15, 2] > 200, "the left half is on top"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_read_source_image_makes_every_mode_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    found = read_source_image(
        _saved(tmp_path / f"a.{suffix}", Image.new("RGB", (7, 5), "white").convert(mode))
    )
    assert found.stored.shape == (5, 7, 3) and found.stored.dtype == np.uint8 and found.stored.min() > 245


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_read_source_image_keeps_alpha_and_shows_colours_over_white(tmp_path: Path, mode: str) -> None:
    found = read_source_image(
        _saved(tmp_path / "a.png", Image.new("RGBA", (4, 4), (0, 0, 0, 51)).convert(mode))
    )
    assert found.alpha is not None and (found.alpha == 51).all()
    assert (found.stored == 0).all() and (found.on_white == 204).all()


def test_read_source_image_keeps_a_palettes_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 0)
    found = read_source_image(_saved(tmp_path / "a.gif", image, transparency=0))
    assert found.alpha is not None and found.alpha[0, 0] == 0 and found.alpha[1, 1] == 255


def _deep_grey(path: Path) -> Path:
    return _saved(path, Image.fromarray(np.full((4, 4), 40_000, np.uint16)))


def _deep_colour(path: Path, sample: bytes = b"\x12\x34") -> Path:
    """A PNG of 16-bit RGB, which Pillow can read but not write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + sample * 3 * 2) * 2)
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("make", [_deep_grey, _deep_colour])
def test_read_source_image_refuses_16_bits_and_a_mask_of_them_is_right(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"--source .* has 16 bits per sample; save it with 8 bits"):
        read_source_image(path)
    if make is _deep_grey:
        assert read_mask(path, _source((4, 4))).all()


@pytest.mark.parametrize("sample", [b"\0\1", b"\0\xff"])
def test_read_mask_says_that_small_values_of_16_bit_colours_are_not_read(
    tmp_path: Path, sample: bytes
) -> None:
    path = _deep_colour(tmp_path / "deep.png", sample)
    with pytest.raises(DataError, match=r"is black, .* of 16-bit colours only the upper 8 bits are read"):
        read_mask(path, _source((2, 2)))


def _html(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>Sign in</title>")


def _pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")


def _isobmff(brand: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(40))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("words"), "is a text file; allowed: JPEG, PNG, WEBP, BMP, GIF"),
        (lambda path: path.touch(), "is an empty file"),
        (_html, "is a web page"),
        (_pointer, "is a Git LFS pointer .run git lfs pull."),
        (_isobmff(b"heic"), "is a HEIC image"),
        (_isobmff(b"avif"), "is an AVIF image"),
        (lambda path: path.write_bytes(b"II*\0" + bytes(60)), "is a TIFF image"),
        (lambda path: path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>'), "is an SVG drawing"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60)), "is a damaged PNG image"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: os.mkfifo(path), "is no regular file"),
        (lambda path: None, "cannot be read: No such file"),
    ],
)
def test_read_source_image_says_what_an_unreadable_file_is(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=f"--source .*a.png {message}") as caught:
        read_source_image(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_read_source_image_takes_pillow_images_and_arrays(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 3), (10, 20, 30, 40))
    from_file = read_source_image(_saved(tmp_path / "a.png", image))
    for same in (image, np.asarray(image), str(tmp_path / "a.png")):
        assert read_source_image(same).digest() == from_file.digest()
    with pytest.raises(DataError, match=r"image is float64\[4, 3\]; allowed: uint8 of"):
        read_source_image(np.zeros((4, 3)), what="image")
    with pytest.raises(DataError, match="image has the mode F, more than 8 bits"):
        read_source_image(Image.new("F", (4, 3)), what="image")


def test_digest_is_of_pixels_and_not_of_the_file(tmp_path: Path) -> None:
    image = Image.effect_noise((20, 10), 90).convert("RGB")
    first = read_source_image(_saved(tmp_path / "a.png", image)).digest()
    assert read_source_image(_saved(tmp_path / "b.bmp", image)).digest() == first
    image.putpixel((3, 3), (1, 2, 3))
    assert read_source_image(_saved(tmp_path / "c.png", image)).digest() != first


def test_a_colour_profile_is_kept_beside_the_pixels_and_models_see_srgb(tmp_path: Path) -> None:
    path = _saved(tmp_path / "p3.png", base_picture(), icc_profile=matrix_profile(*P3))
    found = read_source_image(path)
    assert found.profile is not None and tuple(found.stored[60, 50]) == RED
    assert tuple(found.on_white[60, 50]) == (241, 0, 0), "the same red, as sRGB has to write it"
    back = found.as_stored(found.on_white)
    assert np.abs(back.astype(int) - found.stored)[:, 100:].max() <= 40  # out of sRGB's range: clipped


def test_read_source_image_reads_a_large_jpeg_reduced_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _saved(tmp_path / "a.jpg", base_picture().resize((400, 280)), quality=95)
    mask = _saved(tmp_path / "m.png", base_mask().resize((400, 280)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200 * 140)
    found = read_source_image(path)
    assert found.size == (140, 200) and found.full_size == (280, 400)
    assert "has 400x280 pixels, more than can be worked on; it is read at 200x140" in found.remarks[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400 * 280)
    np.testing.assert_array_equal(read_mask(mask, found)[:, 20:90], np.asarray(base_mask())[:, 20:90] > 0)


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 400), noise=st.binary(max_size=30))
def test_read_source_image_of_broken_bytes_gives_a_picture_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    rng = np.random.default_rng(0)
    whole = _saved(
        folder / "a.png", Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    ).read_bytes()
    (folder / "b.png").write_bytes(whole[:cut] + noise)
    try:
        assert read_source_image(folder / "b.png").size == (9, 9)
    except DataError as error:
        assert "\n" not in str(error)


def _source(size: tuple[int, int]) -> SourceImage:
    return SourceImage(np.zeros((*size, 3), np.uint8))


def test_read_mask_is_true_where_white_and_false_where_transparent(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 2), (255, 255, 255, 255))
    image.paste((255, 255, 255, 0), (0, 0, 2, 2))
    found = read_mask(_saved(tmp_path / "m.png", image), _source((2, 4)))
    np.testing.assert_array_equal(found, [[False, False, True, True]] * 2)


@pytest.mark.parametrize("white", [(1, 1, 1), (255, 0, 0), (255, 255, 255), (90, 90, 90)])
def test_read_mask_of_two_levels_takes_the_brighter_one(tmp_path: Path, white: tuple[int, int, int]) -> None:
    image = Image.new("RGB", (4, 2))
    image.paste(white, (1, 0, 2, 2))
    found = read_mask(_saved(tmp_path / "m.png", image), _source((2, 4)))
    np.testing.assert_array_equal(found, [[False, True, False, False]] * 2)


def test_read_mask_refuses_another_size_and_an_empty_area(tmp_path: Path) -> None:
    path = _saved(tmp_path / "m.png", Image.new("L", (4, 2)))
    with pytest.raises(DataError, match=r"has 4x2 pixels, the source 6x5; paint it on a copy of the source"):
        read_mask(path, _source((5, 6)))
    with pytest.raises(DataError, match="is black, its brightest value is 0 of 255; paint white what is to"):
        read_mask(path, _source((2, 4)))


_AREA = np.zeros((6, 8), bool)
_AREA[1:3, 2:5] = True


@pytest.mark.parametrize(
    "mask",
    [
        _AREA, _AREA.astype(np.uint8), _AREA * np.uint8(255), _AREA.astype(np.uint16), _AREA * np.uint16(65535), _AREA.astype(np.int64),
        _AREA * 255, _AREA.astype(np.float32), _AREA * 0.6, _AREA * 65535.0, Image.fromarray(_AREA), Image.fromarray(_AREA.astype(np.int32)),
        Image.fromarray(_AREA.astype(np.float32)), Image.fromarray(_AREA.astype(np.uint16)), Image.fromarray(_AREA * np.uint16(40000)),
    ],
)  # fmt: skip
def test_read_mask_takes_truth_values_and_numbers_of_any_usual_range(mask: Any, tmp_path: Path) -> None:
    source = SourceImage(np.zeros((6, 8, 3), np.uint8))
    np.testing.assert_array_equal(read_mask(mask, source), _AREA)
    if isinstance(mask, Image.Image) and mask.mode not in ("F", "I"):
        mask.save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", source), _AREA)


@pytest.mark.parametrize("value", [np.nan, -1.0, 1e9, np.inf])
def test_read_mask_refuses_numbers_that_are_no_levels(value: float) -> None:
    mask = np.full((6, 8), 0.5)
    mask[0, 0] = value
    with pytest.raises(DataError, match="values outside 0 to 65535, or not finite"):
        read_mask(mask, SourceImage(np.zeros((6, 8, 3), np.uint8)))
