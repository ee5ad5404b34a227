"""Captioned images of a user's folder or shards: the location of each image's bytes, and its captions.

No single file is fatal. A file that cannot be used becomes a ``Skipped`` with its name and the reason; only a data set
without any usable image is a ``DataError``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from microforge.data.skipped import Skipped

#: Largest number of captions of one image; later ones are ignored.
MAX_CAPTIONS = 16
#: Larger files are not read as captions.
MAX_CAPTION_BYTES = 1 << 20
#: Names that operating systems add to folders and archives.
_CLUTTER = ("__MACOSX", "Thumbs.db")


@dataclass(frozen=True, slots=True)  # slots: there may be a million
class CaptionedImage:
    """An image of ``length`` bytes at ``offset`` of ``file``, and its captions; ``name`` identifies it in messages."""

    name: str
    captions: tuple[str, ...]
    file: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """Read the encoded image.

        Raises:
            OSError: when the file is gone or shorter than it was.
        """
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read(self.length)
        if len(data) < self.length:
            raise OSError(f"{self.length} bytes expected, got {len(data)}")
        return data


@dataclass(frozen=True)
class Listing:
    """The usable images of a data set in their fixed order, and the files that were left out.

    ``fingerprint`` changes with an image's name, size or time and with its captions, but not with the data set's
    location.
    """

    images: tuple[CaptionedImage, ...]
    skipped: tuple[Skipped, ...]
    fingerprint: str


def clean_captions(texts: Iterable[str]) -> tuple[str, ...]:
    """Strip ``texts`` and drop empty and repeated ones, up to ``MAX_CAPTIONS``; lone surrogates become ``?``."""
    whole = (text.encode("utf-8", "replace").decode("utf-8").strip() for text in texts)
    return tuple(dict.fromkeys(text for text in whole if text))[:MAX_CAPTIONS]


def captions_of_text(data: bytes) -> tuple[str, ...] | str:
    """Captions of a ``.txt`` file, one per line; a string is the reason why there are none."""
    if len(data) > MAX_CAPTION_BYTES:
        return f"caption file above {MAX_CAPTION_BYTES} bytes"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "caption is UTF-16, not UTF-8; save it as UTF-8"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "caption is not UTF-8"
    if "\0" in text:
        return "caption holds null characters (UTF-16 without a mark?); save it as UTF-8"
    return clean_captions(text.replace("\r", "\n").split("\n")) or "caption is empty"


def captions_of_json(data: bytes) -> tuple[str, ...] | str:
    """Captions of a JSON object with ``text`` or ``caption``; a string is the reason why there are none."""
    row = parse_object(data)
    return row if isinstance(row, str) else captions_of_row(row)


def captions_of_row(row: dict[str, object]) -> tuple[str, ...] | str:
    """Captions in ``row["text"]``, else in ``row["caption"]``: one or a list; a string is the reason why there are none."""
    value = row.get("text") if row.get("text") is not None else row.get("caption")
    if value is None:
        return 'no "text" or "caption"'
    values = value if isinstance(value, list) else [value]
    texts = [text for text in values if isinstance(text, str)]
    if len(texts) < len(values):
        return "caption is not a string"
    if any("\0" in text for text in texts):
        return "caption holds null characters"
    return clean_captions(texts) or "caption is empty"


def parse_object(data: bytes) -> dict[str, object] | str:
    """Parse a JSON object in UTF-8; a string is the reason why ``data`` is none."""
    try:
        row = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):  # RecursionError: deeply nested brackets
        return "not JSON (it holds null characters: UTF-16?)" if b"\0" in data else "not JSON"
    return row if isinstance(row, dict) else "not a JSON object"


def numbered_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines of a ``.jsonl`` file that are not blank, with their numbers from 1."""
    for number, line in enumerate(data.replace(b"\r", b"\n").split(b"\n"), 1):
        if line.strip():
            yield number, line


def is_clutter(name: str) -> bool:
    """Whether a file or folder is hidden or belongs to the operating system; such files are ignored silently."""
    return name.startswith(".") or name in _CLUTTER


def fingerprint(images: Sequence[CaptionedImage], stamps: Sequence[str]) -> str:
    """SHA-256 of names, captions and ``stamps`` (size and time of each file)."""
    digest = hashlib.sha256()
    for image, stamp in zip(images, stamps, strict=True):
        entry = json.dumps([image.name, stamp, image.captions])  # ASCII, whatever the names hold
        digest.update(entry.encode("ascii"))
    return digest.hexdigest()
