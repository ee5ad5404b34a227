"""What a user's folder or shards hold: where each image's bytes are, its captions, and what was left out.

Nothing a user's data can hold is fatal by itself: a file that cannot be used becomes a ``Skipped`` with its
name and the reason, and only a set without any usable image is a ``DataError``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from microforge.data.skipped import Skipped

#: An image keeps its first captions, up to this many.
MAX_CAPTIONS = 16
#: A file above this is not a caption.
MAX_CAPTION_BYTES = 1 << 20
#: Names that systems add to folders and archives by themselves.
_CLUTTER = ("__MACOSX", "Thumbs.db")


@dataclass(frozen=True, slots=True)  # slots: there may be a million
class CaptionedImage:
    """One image: ``length`` bytes at ``offset`` of ``file``; ``name`` is what messages call it."""

    name: str
    captions: tuple[str, ...]
    file: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: when the file is gone or shorter than it was.
        """
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read(self.length)
        if len(data) < self.length:
            raise OSError(f"{self.length} bytes expected, {len(data)} found")
        return data


@dataclass(frozen=True)
class Listing:
    """The usable images of a data set in their fixed order, and what was left out.

    ``fingerprint`` changes when an image (its name, size or time) or a caption does, and stays when the
    whole set is moved elsewhere.
    """

    images: tuple[CaptionedImage, ...]
    skipped: tuple[Skipped, ...]
    fingerprint: str


def clean_captions(texts: Iterable[str]) -> tuple[str, ...]:
    """``texts`` stripped, without blanks and repetitions, at most ``MAX_CAPTIONS``; half surrogate pairs become ``?``."""
    whole = (text.encode("utf-8", "replace").decode("utf-8").strip() for text in texts)
    return tuple(dict.fromkeys(text for text in whole if text))[:MAX_CAPTIONS]


def captions_of_text(data: bytes) -> tuple[str, ...] | str:
    """The captions of a ``.txt`` file, one a line; or, as one string, the reason why it has none."""
    if len(data) > MAX_CAPTION_BYTES:
        return f"caption file above {MAX_CAPTION_BYTES} bytes"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "caption is not UTF-8"
    return clean_captions(text.replace("\r", "\n").split("\n")) or "caption is empty"


def captions_of_json(data: bytes) -> tuple[str, ...] | str:
    """The captions of a JSON object with ``text`` or ``caption``; or the reason why it has none."""
    row = parse_object(data)
    return row if isinstance(row, str) else captions_of_row(row)


def captions_of_row(row: dict[str, object]) -> tuple[str, ...] | str:
    """``row["text"]``, else ``row["caption"]``: a string, or a list of strings; or the reason why not."""
    value = row.get("text") if row.get("text") is not None else row.get("caption")
    if value is None:
        return 'no "text" or "caption"'
    values = value if isinstance(value, list) else [value]
    texts = [text for text in values if isinstance(text, str)]
    if len(texts) < len(values):
        return "caption is not a string"
    return clean_captions(texts) or "caption is empty"


def parse_object(data: bytes) -> dict[str, object] | str:
    """A JSON object in UTF-8; or the reason why ``data`` is none."""
    try:
        row = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):  # RecursionError: brackets nested a thousand deep
        return "not JSON"
    return row if isinstance(row, dict) else "not a JSON object"


def numbered_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines of a ``.jsonl`` that hold something, with their numbers from 1."""
    for number, line in enumerate(data.replace(b"\r", b"\n").split(b"\n"), 1):
        if line.strip():
            yield number, line


def is_clutter(name: str) -> bool:
    """Whether a file or folder name is hidden or system litter, which is passed over without a word."""
    return name.startswith(".") or name in _CLUTTER


def fingerprint(images: Sequence[CaptionedImage], stamps: Sequence[str]) -> str:
    """A SHA-256 over names, captions and ``stamps`` (size and time of each file)."""
    digest = hashlib.sha256()
    for image, stamp in zip(images, stamps, strict=True):
        entry = json.dumps([image.name, stamp, image.captions])  # ASCII, whatever the names hold
        digest.update(entry.encode("ascii"))
    return digest.hexdigest()
