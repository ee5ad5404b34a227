"""A data set in a folder: images, and captions in text files or in metadata files.

Captions come from ``NAME.txt`` beside ``NAME.jpg`` (one caption per line) and from metadata files as the
Hugging Face ``imagefolder`` loader reads them (https://huggingface.co/docs/datasets/image_dataset): ``metadata.jsonl``,
``metadata.csv`` or Parquet files whose rows have ``file_name``, relative to the metadata's own folder, and ``text`` (or
``caption``).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from microforge.data.files.captioned import (
    MAX_CAPTION_BYTES,
    CaptionedImage,
    Listing,
    captions_of_text,
    clean_captions,
    fingerprint,
    is_clutter,
)
from microforge.data.files.decode import SUFFIXES, UNREAD_SUFFIXES
from microforge.data.files.metadata import CSV, METADATA, is_metadata, read_metadata
from microforge.data.files.names import NameIndex
from microforge.data.skipped import Skipped, printable
from microforge.errors import DataError
from microforge.io.user_file import UnusableFileError, check_regular_file, read_user_file

#: Endings of files that hold captions elsewhere: named when an image or the whole folder has none.
_CAPTION_LIKE = (
    ".caption",
    ".captions",
    ".cap",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".xml",
    ".tags",
    ".md",
    ".rtf",
    ".docx",
)


@dataclass
class _FolderContents:
    """Files of a folder by kind; paths are relative to it, with ``/``."""

    images: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # path without its suffix -> path
    metadata: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # images that no decoder here takes
    others: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)  # folders behind links, which are not followed
    skipped: list[Skipped] = field(default_factory=list)


def list_folder(root: Path, leave_out: Path | None = None) -> Listing:
    """List the captioned images in ``root`` and its subfolders, sorted by relative path.

    Args:
        leave_out: a folder that is passed over where it lies in ``root``: the run's own.

    Raises:
        DataError: when ``root`` cannot be read, or has no image with a caption.
    """
    contents = _walk(root, leave_out)
    if not contents.images:
        raise DataError(f"{root} holds no image{_others(contents)}; allowed: {', '.join(SUFFIXES)}")
    captions, reasons = _captions(root, contents)
    images, stamps, skipped = [], [], contents.skipped
    for name in sorted(contents.images):
        if not captions.get(name):
            skipped.append(Skipped(name, reasons.get(name, "no caption")))
            continue
        path = root / name
        try:
            status = check_regular_file(path)
        except UnusableFileError as error:
            skipped.append(Skipped(name, str(error)))
            continue
        except OSError as error:  # a dangling link
            skipped.append(Skipped(name, error.strerror or str(error)))
            continue
        images.append(CaptionedImage(name, clean_captions(captions[name]), path, 0, status.st_size))
        stamps.append(f"{status.st_size} {status.st_mtime_ns}")
    if not images:
        raise DataError(_nothing_usable(root, contents, skipped))
    return Listing(tuple(images), tuple(skipped), fingerprint(images, stamps))


def _nothing_usable(root: Path, contents: _FolderContents, skipped: Sequence[Skipped]) -> str:
    """Why none of the images can be used: one of them, the first refusal in the metadata, and other files of captions."""
    last = skipped[-1]
    reasons = [f"one is {printable(last.name)}: {last.reason}"]
    metadata = [item for item in skipped if item.name.startswith(tuple(contents.metadata))]
    reasons += [f"{printable(item.name)}: {item.reason}" for item in metadata[:1]]
    captions = [name for name in contents.others if name.lower().endswith(_CAPTION_LIKE)]
    reasons += [f"{printable(name)} is not read" for name in captions[:1]]
    return (
        f"none of the {len(contents.images)} images in {root} can be used ({'; '.join(reasons)}); write captions to "
        f"NAME.txt beside NAME.jpg, or to {METADATA} or {CSV} with file_name and text"
    )


def _walk(root: Path, leave_out: Path | None) -> _FolderContents:
    contents = _FolderContents()
    run = None if leave_out is None else os.path.realpath(leave_out)

    def unreadable(error: OSError) -> None:
        contents.skipped.append(Skipped(str(error.filename), error.strerror or str(error)))

    for folder, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = sorted(
            name
            for name in folders
            if not is_clutter(name) and os.path.realpath(os.path.join(folder, name)) != run
        )
        contents.linked += [name for name in folders if os.path.islink(os.path.join(folder, name))]
        base = Path(folder).relative_to(root).as_posix()
        for name in sorted(files):
            path = posixpath.normpath(posixpath.join(base, name))
            stem, suffix = posixpath.splitext(path)
            if is_clutter(name):
                continue
            if suffix.lower() in SUFFIXES:
                contents.images.append(path)
            elif suffix.lower() in UNREAD_SUFFIXES:
                contents.unread.append(path)
            elif is_metadata(name):
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
    texts, stems = (
        NameIndex(contents.texts),
        NameIndex(posixpath.splitext(name)[0] for name in contents.images),
    )
    used: set[str | None] = set()
    unread = {
        posixpath.splitext(name)[0]: name for name in contents.others if name.lower().endswith(_CAPTION_LIKE)
    }
    for name in contents.images:
        stem = posixpath.splitext(name)[0]
        text = texts.find(stem)
        if text is not None and stems.find(text) == stem:  # not the text of an image whose name is nearer
            used.add(text)
            lines = _sidecar(root / contents.texts[text])
            if not isinstance(lines, str):
                captions.setdefault(name, []).extend(lines)
            elif name in captions:
                contents.skipped.append(Skipped(contents.texts[text], lines))
            else:
                reasons[name] = lines
        elif stem in unread:
            reasons[name] = f"no caption ({posixpath.basename(unread[stem])} is not read; name it NAME.txt)"
    for name in contents.unread:
        kind = posixpath.splitext(name)[1].lower()
        contents.skipped.append(Skipped(name, f"{kind} images are not read; allowed: {', '.join(SUFFIXES)}"))
        used.add(texts.find(posixpath.splitext(name)[0]))
    contents.skipped += [
        Skipped(path, "caption without an image") for stem, path in contents.texts.items() if stem not in used
    ]
    return captions, reasons


def _metadata_captions(root: Path, contents: _FolderContents) -> dict[str, list[str]]:
    """Captions of each image from all metadata files."""
    captions: dict[str, list[str]] = {}
    images, unread = NameIndex(contents.images), NameIndex(contents.unread)
    for path in contents.metadata:
        rows, skipped = read_metadata(root / path)
        contents.skipped += [Skipped(f"{path} {item.name}".strip(), item.reason) for item in skipped]
        for row in rows:
            target = posixpath.normpath(
                posixpath.join(posixpath.dirname(path), row.file_name.replace("\\", "/"))
            )
            name = images.find(posixpath.normpath(posixpath.join(posixpath.dirname(path), row.file_name)))
            name = name or images.find(target)
            if name is not None:
                captions.setdefault(name, []).extend(row.captions)
            elif unread.find(target) is None:  # such an image is named already
                contents.skipped.append(Skipped(f"{path} line {row.line} ({row.file_name})", "no such image"))
    return captions


def _sidecar(path: Path) -> tuple[str, ...] | str:
    try:
        return captions_of_text(read_user_file(path, MAX_CAPTION_BYTES))
    except UnusableFileError as error:
        return f"caption file {error}"
    except OSError as error:
        return f"caption cannot be read: {error.strerror or error}"


def _others(contents: _FolderContents) -> str:
    """What a folder without images holds instead."""
    names = [*contents.unread, *contents.metadata, *contents.others]
    parts = [f"{len(names)} other files, one is {printable(names[0])}"] if names else []
    if contents.linked:
        parts.append(
            f"the folder {printable(contents.linked[0])} is a link, which is not followed: pass its target"
        )
    return f" (but {'; '.join(parts)})" if parts else ""
