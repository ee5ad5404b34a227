"""The segments before a JPEG's pixels: headers out of proportion are refused, damaged metadata is left out. No torch.

A decoder believes a header. One of a few hundred bytes can announce 65,500 x 65,500 pixels, which a progressive JPEG
holds in memory as coefficients whatever size it is decoded at, and thousands of scans can each pass over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from microforge.errors import DataError

#: Pixels of a progressive JPEG as a multiple of Pillow's limit, for its coefficients; and scans of any.
_PROGRESSIVE_FACTOR, MAX_SCANS = 2.5, 200
_START_OF_SCAN = b"\xff\xda"
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
#: Frames whose entropy coding is arithmetic, which has no least length for a block.
_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_FRAMES = tuple(kind for kind in range(0xC0, 0xD0) if kind not in (0xC4, 0xC8, 0xCC))
_ADOBE = 0xEE
#: (marker, what its content begins with, least length of the content) of segments that decoders read.
_KNOWN = ((0xE0, b"JFIF", 12), (_ADOBE, b"Adobe", 12), (0xE2, b"ICC_PROFILE", 14), (0xED, b"Photoshop", 14))
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))


def check_jpeg(data: bytes, width: int, height: int, limit: int | None) -> None:
    """Refuse the JPEG ``data``, whose header says ``width`` x ``height``, before anything is decoded.

    Args:
        limit: of pixels that are decoded; None for none.

    Raises:
        DataError: when ``data`` is too short for its pixels, has more scans than any encoder writes, or is
            progressive and far larger than ``limit``.
    """
    frame = _frame(data)
    blocks = -(-width // 8) * -(-height // 8)
    if frame not in _ARITHMETIC and len(data) * 8 < blocks:  # Huffman coding: a bit for a block at least
        raise DataError(f"is a damaged JPEG image ({len(data)} bytes cannot hold {width}x{height} pixels)")
    if frame in _PROGRESSIVE and limit is not None and width * height > limit * _PROGRESSIVE_FACTOR:
        raise DataError(
            f"is a progressive JPEG image of {width}x{height} pixels; at most {int(limit * _PROGRESSIVE_FACTOR)} in all"
        )
    scans = data.count(_START_OF_SCAN)
    if scans > MAX_SCANS:
        raise DataError(f"is a JPEG image of {scans} scans; at most {MAX_SCANS} are decoded")


def without_faulty_metadata(data: bytes) -> Iterator[bytes]:
    """The JPEG ``data`` as it is, then without segments that are too short for what they say they are, then without any.

    A decoder that stops at the first of them may take the next; the colour transform (Adobe) stays where it is whole.
    """
    yield data
    segments = list(_segments(data))
    for drop in (_too_short, lambda marker, content: _too_short(marker, content) or _is_metadata(marker)):
        parts, kept = [], 0
        for start, end in segments:
            if drop(data[start + 1], data[start + 4 : end]):
                parts.append(data[kept:start])
                kept = end
        if kept:
            yield b"".join((*parts, data[kept:]))


def _too_short(marker: int, content: bytes) -> bool:
    least = next((least for kind, name, least in _KNOWN if marker == kind and content.startswith(name)), 0)
    return len(content) < least


def _is_metadata(marker: int) -> bool:
    return (0xE0 <= marker <= 0xEF and marker != _ADOBE) or marker == 0xFE


def _frame(data: bytes) -> int | None:
    """The marker of the first frame header, which says how the image is coded; None without one."""
    return next((data[start + 1] for start, _ in _segments(data) if data[start + 1] in _FRAMES), None)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of every whole segment before the first scan, its marker included."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if end > len(data) or end < at + 4:
                return
            yield at, end
            at = end
