"""Pixels apart from metadata: a damaged text, orientation or profile costs itself and never the image."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from microforge.errors import DataError
from microforge.io.image_decoding import convert_image, decode_image_bytes
from tests.microforge.io.images import (
    P3,
    RED,
    base_picture,
    chunk,
    encoded,
    jpeg_with_exif,
    matrix_profile,
    png_with,
)

BASE = base_picture()
_HEX = "".join(f"{i:02x}" for i in np.random.default_rng(0).integers(0, 256, 1_100_000)).encode()
_JSON = json.dumps({"workflow": _HEX[:2_100_000].decode()}).encode()
FAULTY_PNGS = {
    "garbage EXIF": [chunk(b"eXIf", b"not a tiff header at all")],
    "zTXt of 2.2 MB": [chunk(b"zTXt", b"k\0\0" + zlib.compress(_HEX))],
    "iTXt of 2.1 MB": [chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(_JSON))],
    "tEXt of 2.1 MB": [chunk(b"tEXt", b"k\0" + _HEX[:2_100_000])],
    "70 texts of 1 MB": [chunk(b"tEXt", b"k%d\0" % i + _HEX[:1_000_000]) for i in range(70)],
    "70 XMP packets of 1 MB": [chunk(b"tEXt", b"XML:com.adobe.xmp\0" + _HEX[:1_000_000])] * 70,
    "XMP that does not unpack": [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0garbage")],
    "text with a zeroed checksum": [chunk(b"tEXt", b"k\0v", crc=0)],
    "EXIF with a zeroed checksum": [chunk(b"eXIf", b"MM\0*", crc=0)],
    "pHYs of two bytes": [chunk(b"pHYs", b"\0\1")],
    "cHRM of three bytes": [chunk(b"cHRM", b"\0\1\2")],
    "gAMA of one byte": [chunk(b"gAMA", b"\0")],
    "tRNS too short": [chunk(b"tRNS", b"\0\1")],
    "tRNS with a zeroed checksum": [chunk(b"tRNS", b"\0\1\0\1\0\1", crc=0)],
    "iCCP that does not unpack": [chunk(b"iCCP", b"p\0\0garbage")],
    "iCCP of another method": [chunk(b"iCCP", b"p\0\7" + zlib.compress(b"x"))],
    "iCCP of no profile": [chunk(b"iCCP", b"p\0\0" + zlib.compress(b"x" * 500))],
    "iCCP that unpacks to 5 MB": [chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(5_000_000)))],
    "iCCP of grey": [chunk(b"iCCP", b"p\0\0" + zlib.compress(matrix_profile(*P3, kind=b"GRAY")))],
    "unknown ancillary chunk": [chunk(b"zzZz", b"\0\1", crc=3)],
}


@pytest.mark.parametrize("fault", FAULTY_PNGS)
def test_a_fault_of_metadata_does_not_cost_a_png(fault: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode_image_bytes(png_with(BASE, *FAULTY_PNGS[fault]))
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(BASE))
    assert bool(found.remarks) == fault.startswith("iCCP"), "a lost profile changes colours, so it is said"


FAULTY_EXIF = {
    "garbage": b"no tiff header, but long enough to be one",
    "short": b"MM\0*",
    "looping": b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", 0) + struct.pack(">I", 8),
    "value 9": b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 9, 0, 0),
    "text": b"MM\0*" + struct.pack(">IHHHI4sI", 8, 1, 0x0112, 2, 2, b"x\0\0\0", 0),
    "empty": b"",
}


@pytest.mark.parametrize(
    ("bits", "level"), [(1, 1), (2, 3), (4, 15), (4, 6), (8, 200), (16, 65535), (16, 4660)]
)
def test_the_transparent_grey_level_of_a_png_is_kept_at_every_depth(bits: int, level: int) -> None:
    row = (level << (64 - bits)).to_bytes(
        8, "big"
    )  # the first of 64 / bits pixels has the level, the others are 0
    header = struct.pack(">IIBBBBB", 64 // bits, 1, bits, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"tRNS", struct.pack(">H", level))]
    parts += [chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")]
    image = decode_image_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).image
    assert np.asarray(image)[0, :, 3].tolist() == [0] + [255] * (64 // bits - 1)


@pytest.mark.parametrize("fault", FAULTY_EXIF)
def test_a_fault_of_exif_does_not_cost_a_jpeg_or_warn(fault: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode_image_bytes(jpeg_with_exif(BASE, FAULTY_EXIF[fault]))
    whole = Image.open(io.BytesIO(encoded(BASE, "JPEG", quality=95)))
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(whole))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_upright(kind: str, orientation: int) -> None:
    turns = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    turn = turns[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = BASE if turn is None else BASE.transpose(turn)
    found = decode_image_bytes(encoded(stored, kind, exif=exif, lossless=True, quality=95))
    assert found.full_size == (140, 200)
    assert np.abs(np.asarray(found.image, int) - np.asarray(BASE)).mean() < 1.5


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}]
)
@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_without_its_end_marker_is_whole_and_one_that_lacks_pixels_is_not(
    options: dict[str, object], cut: int
) -> None:
    data = encoded(BASE, "JPEG", quality=90, **options)
    whole = decode_image_bytes(data)
    found = decode_image_bytes(data[:-cut])
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(whole.image))
    for share in (0.98, 0.7):
        with pytest.raises(DataError, match="is a damaged JPEG image"):
            decode_image_bytes(data[: int(len(data) * share)])


def test_a_damaged_pixel_chunk_is_refused_as_a_damaged_png() -> None:
    data = bytearray(encoded(BASE))
    data[data.find(b"IDAT") + 40] ^= 0xFF
    with pytest.raises(DataError, match="is a damaged PNG image"):
        decode_image_bytes(bytes(data))
    with pytest.raises(DataError, match="is a damaged PNG image"):
        decode_image_bytes(encoded(BASE)[:-300])


def test_a_profile_of_other_primaries_is_kept_and_one_like_srgb_is_not() -> None:
    other = decode_image_bytes(encoded(BASE, icc_profile=matrix_profile(*P3)))
    assert other.profile is not None and not other.remarks
    assert other.image.getpixel((50, 60)) == RED and other.in_srgb().getpixel((50, 60)) == (241, 0, 0)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = decode_image_bytes(encoded(BASE, icc_profile=srgb))
    assert same.profile is None
    np.testing.assert_array_equal(np.asarray(same.image), np.asarray(BASE))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_profile_is_read_from_every_format(kind: str) -> None:
    data = encoded(BASE, kind, icc_profile=matrix_profile(*P3))
    assert decode_image_bytes(data).profile is not None


def test_alpha_passes_a_profile_unchanged() -> None:
    image = BASE.convert("RGBA")
    image.putalpha(77)
    found = decode_image_bytes(encoded(image, icc_profile=matrix_profile(*P3))).in_srgb()
    assert found.mode == "RGBA" and found.getpixel((50, 60)) == (241, 0, 0, 77)


def test_a_large_jpeg_is_refused_or_reduced_and_other_formats_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = BASE.resize((800, 560))
    jpeg, png = encoded(large, "JPEG", quality=95), encoded(large)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    for data in (jpeg, png):
        with pytest.raises(DataError, match=r"800x560 pixels|decompression bomb"):
            decode_image_bytes(data)
    found = decode_image_bytes(jpeg, large_jpeg="reduce")
    assert found.image.size == (200, 140) and found.full_size == (560, 800)
    assert np.abs(np.asarray(found.image, int) - np.asarray(BASE)).mean() < 4
    assert decode_image_bytes(jpeg, cover=100).image.size == (200, 140)


def test_an_open_image_is_judged_as_its_file_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(
        BASE.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif, icc_profile=matrix_profile(*P3)
    )
    opened = convert_image(Image.open(io.BytesIO(data)))
    assert opened.image.tobytes() == decode_image_bytes(data).image.tobytes() and opened.profile is not None


Mutation = tuple[int, bytes]


@pytest.mark.parametrize("make", [
    lambda: encoded(BASE, icc_profile=matrix_profile(*P3)),
    lambda: jpeg_with_exif(BASE.resize((40, 28)), FAULTY_EXIF["value 9"]),
    lambda: encoded(BASE.convert("P"), "GIF"),
    lambda: encoded(BASE.resize((40, 28)), "WEBP", icc_profile=matrix_profile(*P3)),
    lambda: encoded(BASE.resize((40, 28)), "BMP"),
])  # fmt: skip
@settings(max_examples=60, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=8)), max_size=4),
    cut=st.integers(0, 60),
)
def test_changed_bytes_give_an_image_or_one_line(
    make: Callable[[], bytes], changes: list[Mutation], cut: int
) -> None:
    data = bytearray(make())
    for at, new in changes:
        at %= len(data)
        data[at : at + len(new)] = new
    try:
        decode_image_bytes(bytes(data[: len(data) - cut]))
    except DataError as error:
        assert "\n" not in str(error)
