"""Reading a user's images: upright, 8 bits, alpha kept; what cannot be used is named in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microforge.errors import DataError
from microforge_runtimes.images.image_file import read_mask, read_picture


def _saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_read_picture_turns_a_phone_photo_upright(tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 30), "blue")
    wide.paste("red", (0, 0, 20, 30))  # the left half of what the sensor saw
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    found = read_picture(_saved(tmp_path / "photo.jpg", wide, exif=exif, quality=95))
    assert found.size == (40, 30) and found.alpha is None
    assert found.stored[5, 15, 0] > 200 and found.stored[35, 15, 2] > 200, "the left half is on top"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_read_picture_makes_every_mode_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    found = read_picture(_saved(tmp_path / f"a.{suffix}", Image.new("RGB", (7, 5), "white").convert(mode)))
    assert found.stored.shape == (5, 7, 3) and found.stored.dtype == np.uint8 and found.stored.min() > 245


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_read_picture_keeps_alpha_and_shows_colours_over_white(tmp_path: Path, mode: str) -> None:
    found = read_picture(_saved(tmp_path / "a.png", Image.new("RGBA", (4, 4), (0, 0, 0, 51)).convert(mode)))
    assert found.alpha is not None and (found.alpha == 51).all()
    assert (found.stored == 0).all() and (found.seen() == 204).all()


def test_read_picture_keeps_a_palettes_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 0)
    found = read_picture(_saved(tmp_path / "a.gif", image, transparency=0))
    assert found.alpha is not None and found.alpha[0, 0] == 0 and found.alpha[1, 1] == 255


def _deep_grey(path: Path) -> Path:
    return _saved(path, Image.fromarray(np.full((4, 4), 40_000, np.uint16)))


def _deep_colour(path: Path) -> Path:
    """A PNG of 16-bit RGB, which Pillow can read but not write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\x12\x34" * 3 * 2) * 2)
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("make", [_deep_grey, _deep_colour])
def test_read_picture_refuses_16_bits(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"--source .* has 16 bits per sample; save it with 8 bits"):
        read_picture(path)
    with pytest.raises(DataError, match=r"--mask .* has 16 bits per sample"):
        read_mask(path, (4, 4))


def test_read_picture_names_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(DataError, match="cannot be read: none of JPEG, PNG, WEBP, BMP, GIF"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="No such file"):
        read_picture(tmp_path / "b.png")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_picture(tmp_path)


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 400), noise=st.binary(max_size=30))
def test_read_picture_of_broken_bytes_gives_a_picture_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    rng = np.random.default_rng(0)
    whole = _saved(
        folder / "a.png", Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    ).read_bytes()
    (folder / "b.png").write_bytes(whole[:cut] + noise)
    try:
        assert read_picture(folder / "b.png").size == (9, 9)
    except DataError as error:
        assert "\n" not in str(error)


def test_read_mask_is_true_where_white_and_false_where_transparent(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 2), (255, 255, 255, 255))
    image.paste((255, 255, 255, 0), (0, 0, 2, 2))
    found = read_mask(_saved(tmp_path / "m.png", image), (2, 4))
    np.testing.assert_array_equal(found, [[False, False, True, True]] * 2)


def test_read_mask_refuses_another_size_and_an_empty_hole(tmp_path: Path) -> None:
    path = _saved(tmp_path / "m.png", Image.new("L", (4, 2)))
    with pytest.raises(DataError, match=r"has 4x2 pixels, the source 6x5; draw it on a copy of the source"):
        read_mask(path, (5, 6))
    with pytest.raises(DataError, match="is all black; paint what is to be drawn white"):
        read_mask(path, (2, 4))
