"""Names and tags of emoji in several languages, from Emojibase (which takes them from Unicode's CLDR)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microforge.data.stickers.emoji.icons import glyph_id, read_json
from microforge.errors import DataError

#: Languages of names, tags and captions.
LANGUAGES = ("en", "es", "fr", "de", "pt", "zh")
#: Groups that are no pictures of something: skin tones and hair.
_LEFT_OUT = ("component",)


@dataclass(frozen=True)
class Subject:
    """What a sticker shows, whatever its style: an emoji without skin tone, or a user's own name.

    ``names`` and ``tags`` are by language; the first name of a language is its official one.
    """

    id: str
    emoji: str
    group: str
    names: Mapping[str, tuple[str, ...]]
    tags: Mapping[str, tuple[str, ...]]


def read_subjects(folder: Path, languages: Sequence[str] = LANGUAGES) -> tuple[Subject, ...]:
    """Every emoji without skin tone, in Unicode's order.

    Raises:
        DataError: when a language or a field is missing.
    """
    groups = read_json(folder / "meta" / "groups.json")["groups"]
    tables = {language: _read_language(folder, language) for language in languages}
    subjects = []
    for row in sorted(tables[languages[0]].values(), key=lambda row: row.get("order", 0)):
        group = groups.get(str(row.get("group")))
        if group is None or group in _LEFT_OUT:  # letters that flags are spelled with have no group
            continue
        code = row["hexcode"]
        rows = {language: table[code] for language, table in tables.items() if code in table}
        subjects.append(Subject(
            glyph_id(code), str(row["emoji"]), str(group),
            {language: (str(entry["label"]),) for language, entry in rows.items()},
            {language: tuple(map(str, entry.get("tags", ()))) for language, entry in rows.items()},
        ))  # fmt: skip
    return tuple(subjects)


def _read_language(folder: Path, language: str) -> dict[str, dict[str, Any]]:
    """The rows of one language by their code points."""
    path = folder / language / "data.json"
    try:
        rows = json.loads(path.read_text("utf-8"))
        return {row["hexcode"]: row for row in rows if row["label"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}; install emojibase-data again") from None
