"""A folder of images with captions beside them.

Captions come from ``NAME.txt`` beside ``NAME.jpg`` (one caption a line) and from ``metadata.jsonl`` files as the
Hugging Face ``imagefolder`` loader reads them (https://huggingface.co/docs/datasets/image_dataset): one JSON
object a line with ``file_name``, relative to the metadata's own folder, and ``text`` (or ``caption``).
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from microforge.data.files.captioned import (
    MAX_CAPTION_BYTES,
    CaptionedImage,
    Listing,
    captions_of_row,
    captions_of_text,
    clean_captions,
    fingerprint,
    is_clutter,
    numbered_lines,
    parse_object,
)
from microforge.data.files.decode import SUFFIXES
from microforge.data.skipped import Skipped, printable
from microforge.errors import DataError

METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class MetadataRow:
    """One line of a ``metadata.jsonl``: ``file_name`` as written there, and its captions."""

    line: int
    file_name: str
    captions: tuple[str, ...]


@dataclass
class _Found:
    """What a walk over the folder came across; paths are relative to it, with ``/``."""

    images: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # path without its suffix -> path
    metadata: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def list_folder(root: Path) -> Listing:
    """The captioned images below ``root``, subfolders included, sorted by their relative path.

    Raises:
        DataError: when ``root`` cannot be read, or holds no image with a caption.
    """
    found = _walk(root)
    if not found.images:
        raise DataError(f"{root} holds no image{_instead(found.others)}; allowed: {', '.join(SUFFIXES)}")
    captions, reasons = _captions(root, found)
    images, stamps, skipped = [], [], found.skipped
    for name in sorted(found.images):
        if not captions.get(name):
            skipped.append(Skipped(name, reasons.get(name, "no caption")))
            continue
        path = root / name
        try:
            status = path.stat()
        except OSError as error:  # a dangling link
            skipped.append(Skipped(name, error.strerror or str(error)))
            continue
        images.append(CaptionedImage(name, clean_captions(captions[name]), path, 0, status.st_size))
        stamps.append(f"{status.st_size} {status.st_mtime_ns}")
    if not images:
        last = skipped[-1]
        raise DataError(
            f"none of the {len(found.images)} images in {root} can be used (one is {printable(last.name)}: "
            f"{last.reason}); write captions to NAME.txt beside NAME.jpg, or to {METADATA}"
        )
    return Listing(tuple(images), tuple(skipped), fingerprint(images, stamps))


def parse_metadata(data: bytes) -> tuple[tuple[MetadataRow, ...], tuple[Skipped, ...]]:
    """The rows of a ``metadata.jsonl``; a line that cannot be used is skipped as ``line N``. Never raises."""
    rows, skipped = [], []
    for number, line in numbered_lines(data):
        row = parse_object(line)
        file_name = row.get("file_name") if isinstance(row, dict) else None
        if isinstance(row, str):
            skipped.append(Skipped(f"line {number}", row))
        elif not isinstance(file_name, str) or not file_name:
            skipped.append(Skipped(f"line {number}", 'no "file_name"'))
        elif isinstance(found := captions_of_row(row), str):
            skipped.append(Skipped(f"line {number} ({file_name})", found))
        else:
            rows.append(MetadataRow(number, file_name, found))
    return tuple(rows), tuple(skipped)


def _walk(root: Path) -> _Found:
    found = _Found()

    def unreadable(error: OSError) -> None:
        found.skipped.append(Skipped(str(error.filename), error.strerror or str(error)))

    for folder, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        base = Path(folder).relative_to(root).as_posix()
        for name in sorted(files):
            path = posixpath.normpath(posixpath.join(base, name))
            stem, suffix = posixpath.splitext(path)
            if is_clutter(name):
                continue
            if suffix.lower() in SUFFIXES:
                found.images.append(path)
            elif name == METADATA:
                found.metadata.append(path)
            elif suffix.lower() == ".txt":
                found.texts[stem] = path
            else:
                found.others.append(path)
    return found


def _captions(root: Path, found: _Found) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Captions per image, those of metadata first; and per image the reason why its caption file gave none."""
    captions: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    # Names are compared in composed form: macOS writes "é" of file names as two characters.
    images = {unicodedata.normalize("NFC", name): name for name in found.images}
    for path in found.metadata:
        rows, skipped = _metadata(root / path)
        found.skipped += [Skipped(f"{path} {item.name}".strip(), item.reason) for item in skipped]
        for row in rows:
            wanted = posixpath.normpath(posixpath.join(posixpath.dirname(path), row.file_name))
            name = images.get(unicodedata.normalize("NFC", wanted))
            if name is None:
                found.skipped.append(Skipped(f"{path} line {row.line} ({row.file_name})", "no such image"))
            else:
                captions.setdefault(name, []).extend(row.captions)
    used = set()
    for name in found.images:
        stem = posixpath.splitext(name)[0]
        if stem in found.texts:
            used.add(stem)
            lines = _sidecar(root / found.texts[stem])
            if not isinstance(lines, str):
                captions.setdefault(name, []).extend(lines)
            elif name in captions:
                found.skipped.append(Skipped(found.texts[stem], lines))
            else:
                reasons[name] = lines
    found.skipped += [
        Skipped(path, "caption without an image") for stem, path in found.texts.items() if stem not in used
    ]
    return captions, reasons


def _sidecar(path: Path) -> tuple[str, ...] | str:
    try:
        with path.open("rb") as stream:
            return captions_of_text(stream.read(MAX_CAPTION_BYTES + 1))
    except OSError as error:
        return f"caption cannot be read: {error.strerror or error}"


def _metadata(path: Path) -> tuple[tuple[MetadataRow, ...], tuple[Skipped, ...]]:
    try:
        return parse_metadata(path.read_bytes())
    except OSError as error:
        return (), (Skipped("", f"cannot be read: {error.strerror or error}"),)


def _instead(others: list[str]) -> str:
    return f" (but {len(others)} other files, one is {printable(others[0])})" if others else ""
