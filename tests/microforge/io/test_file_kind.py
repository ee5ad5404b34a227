"""Files that no decoder takes are told apart by their first bytes."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from microforge.io.file_kind import HEAD_BYTES, file_kind


@pytest.mark.parametrize(
    ("kind", "format"),
    [
        ("JPEG image", "JPEG"), ("PNG image", "PNG"), ("GIF image", "GIF"), ("BMP image", "BMP"), ("WebP image", "WEBP"),
        ("TIFF image or camera raw file", "TIFF"), ("JPEG 2000 image", "JPEG2000"), ("AVIF image", "AVIF"),
        ("Windows icon", "ICO"), ("PDF document", "PDF"),
    ],
)  # fmt: skip
def test_file_kind_knows_what_pillow_writes(kind: str, format: str) -> None:
    stream = io.BytesIO()
    try:
        Image.new("RGB", (32, 32)).save(stream, format)
    except (OSError, KeyError) as error:
        pytest.skip(f"this Pillow does not write {format}: {error}")
    assert file_kind(stream.getvalue()[:HEAD_BYTES]) == kind


def test_file_kind_knows_other_files() -> None:
    archive, array = io.BytesIO(), io.BytesIO()
    zipfile.ZipFile(archive, "w").writestr("a", "b")
    np.save(array, np.zeros(3))
    for data, kind in (
        (b"", "empty file"),
        (bytes(100), "file of zeros"),
        (b"\n <!doctype HTML><html>", "web page"),
        (b"\xef\xbb\xbf<html lang=en>", "web page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "SVG drawing"),
        (b"<?xml version='1.0'?><a/>", "XML file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\0\0\0\x1cftypheix\0\0\0\0mif1heix", "HEIC image"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1", "HEIF image"),
        (b"\0\0\0\x20ftypisom\0\0\0\0isom", "MP4 video"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI", "PNG image in Apple's own form"),
        (b'{"error": "not found"}', "JSON file"),
        (b"hello", "text file"),
        ("café ".encode() * 200, "text file"),
        (b"\xff\xfeh\0i\0", "UTF-16 text file"),
        (archive.getvalue(), "zip archive"),
        (pickle.dumps([1], protocol=4), "Python pickle"),
        (array.getvalue(), "NumPy array"),
        (b"\x9d\xf0\x01\0\xfe", "unknown kind of file"),
    ):
        assert file_kind(data[:HEAD_BYTES]).startswith(kind), data[:40]


@given(st.binary(max_size=HEAD_BYTES))
def test_file_kind_answers_for_any_bytes(head: bytes) -> None:
    assert file_kind(head)
