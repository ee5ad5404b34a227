"""JPEG headers: what they announce is held against the file, and faults of metadata cost only the metadata."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from microforge.errors import DataError
from microforge.io.image_decoding import decode_image_bytes
from microforge.io.jpeg_segments import MAX_SCANS, check_jpeg
from tests.microforge.io.images import base_picture, encoded

PLAIN = encoded(base_picture(), "JPEG", quality=95)


def _announcing(side: int, **options: object) -> bytes:
    """A small JPEG whose header announces ``side`` x ``side`` pixels."""
    data = bytearray(encoded(Image.new("RGB", (64, 64), "red"), "JPEG", **options))
    at = data.find(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("side", [12_000, 65_500])
def test_a_header_beyond_its_file_is_refused_before_anything_is_decoded(side: int, progressive: bool) -> None:
    data = _announcing(side, progressive=progressive)
    for cover in (None, 64):
        with pytest.raises(DataError, match=f"bytes cannot hold {side}x{side} pixels"):
            decode_image_bytes(data, cover=cover, large_jpeg="reduce")


def test_a_progressive_jpeg_far_beyond_the_limit_and_endless_scans_are_refused() -> None:
    data = encoded(base_picture(), "JPEG", progressive=True)
    with pytest.raises(DataError, match=r"progressive JPEG image of 200x140 pixels; at most 20000"):
        check_jpeg(data, 200, 140, 8000)
    check_jpeg(PLAIN, 200, 140, 8000)
    with pytest.raises(DataError, match=f"at most {MAX_SCANS} are decoded"):
        check_jpeg(data + b"\xff\xda" * MAX_SCANS, 200, 140, None)


@pytest.mark.parametrize("quality", [1, 50, 100])
@pytest.mark.parametrize("color", ["white", "black"])
def test_the_smallest_honest_jpegs_pass(quality: int, color: str) -> None:
    for options in ({}, {"progressive": True}, {"optimize": True}):
        data = encoded(Image.new("RGB", (2000, 1500), color), "JPEG", quality=quality, **options)
        assert decode_image_bytes(data).full_size == (1500, 2000)


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE0, b"JFIF\0"), (0xE2, b"ICC_PROFILE\0"), (0xE2, b"ICC_PROFILE\0\x02\x03abc"), (0xEE, b"Adobe"), (0xED, b"Photoshop 3.0\0008BIM\x04"),
        (0xE2, b"MPF\0II*\0\xff\xff\xff\xff"), (0xFE, b"c" * 60_000), (0xE1, b"Exif\0\0"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0<"),
    ],
)  # fmt: skip
def test_a_fault_of_a_segment_does_not_cost_the_jpeg(marker: int, content: bytes) -> None:
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    expected = np.asarray(decode_image_bytes(PLAIN).image)
    np.testing.assert_array_equal(
        np.asarray(decode_image_bytes(PLAIN[:2] + segment + PLAIN[2:]).image), expected
    )
