"""Image files of every state of repair, written by hand for tests."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

from PIL import Image, ImageDraw

#: Display P3 and a steep profile of its primaries swapped about, as (gamma, columns of the matrix to XYZ D50).
P3 = (2.2, ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)))
RED, BLUE, GREEN = (220, 30, 30), (30, 60, 220), (20, 200, 40)


def base_picture() -> Image.Image:
    """200 x 140, white, with a red disc, a blue rectangle and a green corner."""
    image = Image.new("RGB", (200, 140), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 30, 90, 100), fill=RED)
    draw.rectangle((120, 50, 180, 110), fill=BLUE)
    draw.rectangle((0, 0, 30, 10), fill=GREEN)
    return image


def base_mask() -> Image.Image:
    """The size of ``base_picture``, black, white around its disc."""
    mask = Image.new("L", (200, 140))
    ImageDraw.Draw(mask).rectangle((15, 25, 95, 105), fill=255)
    return mask


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_with(image: Image.Image, *chunks: bytes) -> bytes:
    """A PNG of ``image`` with ``chunks`` behind its header."""
    data = encoded(image)
    return data[:33] + b"".join(chunks) + data[33:]


def jpeg_with_exif(image: Image.Image, exif: bytes) -> bytes:
    """A JPEG whose EXIF block holds the bytes ``exif``."""
    data, content = encoded(image, "JPEG", quality=95), b"Exif\0\0" + exif
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


def matrix_profile(gamma: float, columns: Sequence[Sequence[float]], kind: bytes = b"RGB ") -> bytes:
    """An ICC profile (version 2.1) of three columns to XYZ and one gamma."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: Sequence[float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79)
    tags = [(b"desc", name), (b"cprt", b"text\0\0\0\0free\0\0\0\0"), (b"wtpt", xyz((0.9642, 1.0, 0.8249)))]
    tags += [(tag, xyz(column)) for tag, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)]
    tags += [(tag, curve) for tag in (b"rTRC", b"gTRC", b"bTRC")]
    table, content, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for tag, data in tags:
        table += tag + struct.pack(">II", start + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI", start + len(content), b"lcms", 0x02100000) + b"mntr" + kind + b"XYZ "
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(24) + struct.pack(">I", 0)
    header += b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    return header.ljust(128, b"\0") + table + content
