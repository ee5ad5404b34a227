"""A PNG's pixels apart from its metadata: faults of what is not a pixel must not cost the image. No torch.

Browsers and libpng skip ancillary chunks that are damaged; a decoder that refuses them loses good images. So a PNG
is decoded from a copy that holds its critical chunks, its transparency, and what says how to show it (colour profile,
orientation) where that is sound.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Offset of the bits per sample in a PNG; decoders that hand out 8 bits do not tell.
_DEPTH_AT = 24
_GREY, _RGB, _PALETTE = 0, 2, 3  # color types that have no alpha channel
#: Metadata that unpacks to more bytes than this is left out; it is the limit of Pillow's decoder.
MAX_UNPACKED = 1 << 20
#: Keywords of text chunks that may hold the orientation.
_ORIENTATION_TEXT = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")


def bits_per_sample(data: bytes) -> int:
    """Bits per sample of a PNG, and 8 for anything else."""
    return data[_DEPTH_AT] if data.startswith(SIGNATURE) and len(data) > _DEPTH_AT else 8


def has_profile(data: bytes) -> bool:
    """Whether ``data`` is a PNG with a colour profile, sound or not."""
    return data.startswith(SIGNATURE) and any(
        data[start + 4 : start + 8] == b"iCCP" for start, _ in chunks(data)
    )


def without_faulty_metadata(data: bytes) -> bytes:
    """The PNG ``data`` with its pixels, and of its metadata only what a decoder can use.

    Bytes that do not form chunks are kept as they are, for the decoder to refuse.
    """
    parts, kept = [SIGNATURE], set[bytes]()
    end = len(SIGNATURE)
    for start, end in chunks(data):
        kind, content = data[start + 4 : start + 8], data[start + 8 : end - 4]
        name = _name(kind, content)
        critical = not kind[0] & 0x20
        if critical or (
            name not in kept and _sound(data[start:end]) and _useful(kind, content, _color_type(data))
        ):
            parts.append(data[start:end])
            kept.add(name)
        if kind == b"IEND":
            return b"".join(parts)
    return b"".join((*parts, data[end:]))


def chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of every whole chunk of the PNG ``data``, length and checksum included."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            return
        yield start, end
        start = end


def text_chunk(keyword: str, text: str) -> bytes:
    """An international text chunk (iTXt), uncompressed."""
    content = keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8")
    return (
        struct.pack(">I", len(content)) + b"iTXt" + content + struct.pack(">I", zlib.crc32(b"iTXt" + content))
    )


def international_texts(data: bytes) -> dict[str, str]:
    """Keyword -> text of the sound, uncompressed iTXt chunks of the PNG ``data``."""
    texts: dict[str, str] = {}
    for start, end in chunks(data):
        keyword, _, rest = data[start + 8 : end - 4].partition(b"\0")
        if data[start + 4 : start + 8] == b"iTXt" and rest[:1] == b"\0" and _sound(data[start:end]):
            *_, text = rest[2:].split(b"\0", 2)
            texts[keyword.decode("latin-1")] = text.decode("utf-8", "replace")
    return texts


def _sound(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _color_type(data: bytes) -> int:
    return data[_DEPTH_AT + 1] if len(data) > _DEPTH_AT + 1 else 0


def _name(kind: bytes, content: bytes) -> bytes:
    """What an ancillary chunk may be only once: its kind, for a text its keyword."""
    return kind if kind[1:] not in (b"EXt", b"TXt") else content.partition(b"\0")[0]


def _useful(kind: bytes, content: bytes, color_type: int) -> bool:
    """Whether a decoder needs the ancillary chunk and cannot fail on it."""
    if kind == b"eXIf":
        return True
    if kind == b"tRNS":  # one level of grey or of each colour, or an alpha per palette entry
        return len(content) >= {_GREY: 2, _RGB: 6, _PALETTE: 1}.get(color_type, len(content) + 1)
    keyword, _, rest = content.partition(b"\0")
    if kind == b"iCCP":
        return rest[:1] == b"\0" and _unpacks(rest[1:])
    if keyword not in _ORIENTATION_TEXT:
        return False
    if kind == b"tEXt":
        return len(rest) <= MAX_UNPACKED
    if kind == b"zTXt":
        return rest[:1] == b"\0" and _unpacks(rest[1:])
    if kind == b"iTXt" and rest.count(b"\0", 2) >= 2:
        text = rest[2:].split(b"\0", 2)[2]
        return _unpacks(text) if rest[0] else len(text) <= MAX_UNPACKED
    return False


def _unpacks(data: bytes) -> bool:
    """Whether ``data`` is a whole zlib stream of at most ``MAX_UNPACKED`` bytes."""
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(data, MAX_UNPACKED)
    except zlib.error:
        return False
    return unpacker.eof
