"""The list of a folder's stickers: ``metadata.jsonl``, one JSON object a picture, or the names of the files.

``file_name`` and ``text`` are what the Hugging Face ``imagefolder`` loader reads; the other keys are ours::

    {"file_name": "flat/1f42e.png", "text": "cow face", "subject": "1f42e", "style": "flat", "emoji": "...",
     "group": "animals-nature", "names": {"en": ["cow face"], "es": [...]}, "tags": {"en": [...], ...}}

A user's own line needs ``file_name`` and ``text`` (or ``names``) alone. A folder without ``metadata.jsonl`` works, too:
``red-panda.png`` shows a red panda, and a subfolder is a style.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from microforge.data.files.captioned import is_clutter, numbered_lines, parse_object
from microforge.errors import DataError

METADATA = "metadata.jsonl"
#: Endings of pictures that can hold an alpha channel.
SUFFIXES = (".png", ".webp")
#: The style of a user's own stickers that name none.
OWN_STYLE = "own"


@dataclass(frozen=True)
class Sticker:
    """One picture: ``file`` relative to the set's folder; two pictures of one ``subject`` differ in ``style``."""

    file: str
    subject: str
    style: str
    emoji: str
    group: str
    names: Mapping[str, tuple[str, ...]]
    tags: Mapping[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        """The English name, or the first of another language."""
        return self.names["en"][0] if "en" in self.names else next(iter(self.names.values()))[0]

    @property
    def row(self) -> dict[str, object]:
        """What ``metadata.jsonl`` says about it."""
        return {
            "file_name": self.file, "text": self.name, "subject": self.subject, "style": self.style,
            "emoji": self.emoji, "group": self.group, "names": dict(self.names), "tags": dict(self.tags),
        }  # fmt: skip


def metadata_bytes(stickers: Iterable[Sticker]) -> bytes:
    """The contents of ``metadata.jsonl``."""
    return "".join(json.dumps(item.row, ensure_ascii=False) + "\n" for item in stickers).encode("utf-8")


def read_catalogue(folder: Path) -> tuple[Sticker, ...]:
    """Every sticker of ``folder``, in a fixed order.

    Raises:
        DataError: when there is no folder, no picture, or a line that cannot be read; the line is named.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}; a sticker set is a folder of {' and '.join(SUFFIXES)} pictures")
    path = folder / METADATA
    stickers = _from_metadata(folder, path.read_bytes()) if path.is_file() else _from_names(folder)
    if not stickers:
        raise DataError(
            f"{folder} holds no sticker; allowed: {', '.join(SUFFIXES)} pictures, best with a {METADATA}; "
            "mf-data stickers makes such a folder"
        )
    return stickers


def _from_metadata(folder: Path, data: bytes) -> tuple[Sticker, ...]:
    stickers = []
    for number, line in numbered_lines(data):
        row = parse_object(line)
        result = row if isinstance(row, str) else _sticker(row)
        if isinstance(result, str):
            raise DataError(f"{folder / METADATA}, line {number}: {result}")
        if not (folder / result.file).is_file():
            raise DataError(f"{folder / METADATA}, line {number}: {result.file} does not exist")
        stickers.append(result)
    return tuple(stickers)


def _sticker(row: Mapping[str, object]) -> Sticker | str:
    """The sticker of one line, or the reason why it is none."""
    file = row.get("file_name")
    if not isinstance(file, str) or not file or Path(file).is_absolute() or ".." in Path(file).parts:
        return 'no "file_name" relative to the folder'
    if Path(file).suffix.lower() not in SUFFIXES:
        return f"{file} is not a {' or '.join(SUFFIXES)} file"
    text = row.get("text")
    names = _by_language(row.get("names")) or (
        {"en": (text,)} if isinstance(text, str) and text.strip() else {}
    )
    if not names:
        return 'no "text" and no "names" by language'
    subject = row.get("subject") or _slug(next(iter(names.values()))[0])
    style, emoji, group = (
        row.get(key) or other for key, other in (("style", OWN_STYLE), ("emoji", ""), ("group", "own"))
    )
    return Sticker(
        file, str(subject), str(style), str(emoji), str(group), names, _by_language(row.get("tags"))
    )


def _by_language(value: object) -> dict[str, tuple[str, ...]]:
    """``{"en": ["a"], "es": "b"}`` as tuples; anything that is no text is left out."""
    if not isinstance(value, dict):
        return {}
    lists = {key: [item] if isinstance(item, str) else item for key, item in value.items()}
    texts = {
        str(key): tuple(text.strip() for text in items if isinstance(text, str) and text.strip())
        for key, items in lists.items()
        if isinstance(items, list)
    }
    return {key: items for key, items in texts.items() if items}


def _from_names(folder: Path) -> tuple[Sticker, ...]:
    """Stickers named by their files; a subfolder is a style."""
    paths = sorted(
        path for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
        and not any(is_clutter(part) for part in path.relative_to(folder).parts)
    )  # fmt: skip
    stickers = []
    for path in paths:
        relative = path.relative_to(folder)
        name = " ".join(path.stem.replace("_", " ").replace("-", " ").split()) or path.stem
        style = "/".join(relative.parts[:-1]) or OWN_STYLE
        stickers.append(Sticker(relative.as_posix(), _slug(name), style, "", "own", {"en": (name,)}, {}))
    return tuple(stickers)


def _slug(name: str) -> str:
    return "-".join(name.lower().split())


def catalogue_fingerprint(folder: Path, stickers: Sequence[Sticker]) -> str:
    """A SHA-256 over names, captions, and sizes and times of the pictures; the folder's own place does not count."""
    digest = hashlib.sha256()
    for item in stickers:
        status = (folder / item.file).stat()
        digest.update(json.dumps([item.row, status.st_size, status.st_mtime_ns]).encode("ascii"))
    return digest.hexdigest()
