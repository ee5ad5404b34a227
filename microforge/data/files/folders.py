"""A data set in a folder: images, and captions in text files or in ``metadata.jsonl``.

Captions come from ``NAME.txt`` beside ``NAME.jpg`` (one caption per line) and from ``metadata.jsonl`` files as the
Hugging Face ``imagefolder`` loader reads them (https://huggingface.co/docs/datasets/image_dataset): one JSON
object per line with ``file_name``, relative to the metadata's own folder, and ``text`` (or ``caption``).
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
    """One line of a ``metadata.jsonl``: its number, ``file_name`` as written there, and the captions."""

    line: int
    file_name: str
    captions: tuple[str, ...]


@dataclass
class _FolderContents:
    """Files of a folder by kind; paths are relative to it, with ``/``."""

    images: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # path without its suffix -> path
    metadata: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def list_folder(root: Path) -> Listing:
    """List the captioned images in ``root`` and its subfolders, sorted by relative path.

    Raises:
        DataError: when ``root`` cannot be read, or has no image with a caption.
    """
    contents = _walk(root)
    if not contents.images:
        raise DataError(f"{root} holds no image{_others(contents.others)}; allowed: {', '.join(SUFFIXES)}")
    captions, reasons = _captions(root, contents)
    images, stamps, skipped = [], [], contents.skipped
    for name in sorted(contents.images):
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
            f"none of the {len(contents.images)} images in {root} can be used (one is {printable(last.name)}: "
            f"{last.reason}); write captions to NAME.txt beside NAME.jpg, or to {METADATA}"
        )
    return Listing(tuple(images), tuple(skipped), fingerprint(images, stamps))


def parse_metadata(data: bytes) -> tuple[tuple[MetadataRow, ...], tuple[Skipped, ...]]:
    """Parse a ``metadata.jsonl`` and skip unusable lines under the name ``line N``. Never raises."""
    rows, skipped = [], []
    for number, line in numbered_lines(data):
        row = parse_object(line)
        file_name = row.get("file_name") if isinstance(row, dict) else None
        if isinstance(row, str):
            skipped.append(Skipped(f"line {number}", row))
        elif not isinstance(file_name, str) or not file_name:
            skipped.append(Skipped(f"line {number}", 'no "file_name"'))
        elif isinstance(captions := captions_of_row(row), str):
            skipped.append(Skipped(f"line {number} ({file_name})", captions))
        else:
            rows.append(MetadataRow(number, file_name, captions))
    return tuple(rows), tuple(skipped)


def _walk(root: Path) -> _FolderContents:
    contents = _FolderContents()

    def unreadable(error: OSError) -> None:
        contents.skipped.append(Skipped(str(error.filename), error.strerror or str(error)))

    for folder, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        base = Path(folder).relative_to(root).as_posix()
        for name in sorted(files):
            path = posixpath.normpath(posixpath.join(base, name))
            stem, suffix = posixpath.splitext(path)
            if is_clutter(name):
                continue
            if suffix.lower() in SUFFIXES:
                contents.images.append(path)
            elif name == METADATA:
                contents.metadata.append(path)
            elif suffix.lower() == ".txt":
                contents.texts[stem] = path
            else:
                contents.others.append(path)
    return contents


def _captions(root: Path, contents: _FolderContents) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Captions of each image, those of metadata first; and for images without any, the reason."""
    captions = _metadata_captions(root, contents)
    reasons: dict[str, str] = {}
    used = set()
    for name in contents.images:
        stem = posixpath.splitext(name)[0]
        if stem in contents.texts:
            used.add(stem)
            lines = _sidecar(root / contents.texts[stem])
            if not isinstance(lines, str):
                captions.setdefault(name, []).extend(lines)
            elif name in captions:
                contents.skipped.append(Skipped(contents.texts[stem], lines))
            else:
                reasons[name] = lines
    contents.skipped += [
        Skipped(path, "caption without an image") for stem, path in contents.texts.items() if stem not in used
    ]
    return captions, reasons


def _metadata_captions(root: Path, contents: _FolderContents) -> dict[str, list[str]]:
    """Captions of each image from all ``metadata.jsonl`` files."""
    captions: dict[str, list[str]] = {}
    # Names are compared in composed form: macOS stores "é" in file names as two characters.
    images = {unicodedata.normalize("NFC", name): name for name in contents.images}
    for path in contents.metadata:
        rows, skipped = _metadata(root / path)
        contents.skipped += [Skipped(f"{path} {item.name}".strip(), item.reason) for item in skipped]
        for row in rows:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), row.file_name))
            name = images.get(unicodedata.normalize("NFC", target))
            if name is None:
                contents.skipped.append(Skipped(f"{path} line {row.line} ({row.file_name})", "no such image"))
            else:
                captions.setdefault(name, []).extend(row.captions)
    return captions


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


def _others(others: list[str]) -> str:
    return f" (but {len(others)} other files, one is {printable(others[0])})" if others else ""
