"""Miniature npm packages in the layout of the real ones: two subjects, four styles, six languages."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from microforge.data.stickers.emoji.names import LANGUAGES
from microforge.data.stickers.emoji.packages import NAMES, PACKAGES, Package

#: (code point, icon, colour, English name) of every subject; the last one is a skin tone, which is no subject.
SUBJECTS = (
    ("1F34E", "red-apple", "#e01020", "red apple"),
    ("2764", "red-heart", "#c00040", "red heart"),
    ("1F3FB", "tone", "#ffddbb", "light skin tone"),
)


def icons(prefix: str) -> dict[str, object]:
    """An Iconify set in which the heart is a mirrored variant of a left half."""
    half = '<path fill="#c00040" d="M0 0h16v32h-16z"/>'
    apple = '<circle cx="16" cy="16" r="12" fill="#e01020"/>'
    return {
        "prefix": prefix, "width": 32, "height": 32,
        "icons": {"red-apple": {"body": apple}, "half-heart": {"body": half}, "tone": {"body": apple}},
        "aliases": {"red-heart": {"parent": "half-heart", "hFlip": True}},
    }  # fmt: skip


def names(language: str) -> list[dict[str, object]]:
    """Emojibase's table of one language, in another order than Unicode's."""
    rows: list[dict[str, object]] = [
        {
            "hexcode": code, "label": name if language == "en" else f"{name} ({language})", "emoji": chr(int(code, 16)),
            "tags": ["round"], "order": order, "group": 2 if icon == "tone" else 4,
        }
        for order, (code, icon, _, name) in enumerate(SUBJECTS)
    ]  # fmt: skip
    rows.append(
        {"hexcode": "1F1E6", "label": "letter A", "emoji": "A", "order": 9}
    )  # Emojibase gives letters no group
    return rows[::-1]


def write_packages(folder: Path, archives: bool = False) -> Path:
    """Write every package into ``folder``, as ``node_modules`` or as the archives of ``npm pack``."""
    for package in PACKAGES:
        place = folder / ("unpacked" if archives else "node_modules") / package.npm
        _write(place, package)
        if archives:
            with tarfile.open(folder / f"{package.archive_prefix}1.2.3.tgz", "w:gz") as archive:
                archive.add(place, "package")
    return folder


def _write(place: Path, package: Package) -> None:
    contents: dict[str, object] = {"package.json": {"name": package.npm, "version": "1.2.3"}}
    if package == NAMES:
        contents["meta/groups.json"] = {"groups": {"2": "component", "4": "food-drink"}}
        contents |= {f"{language}/data.json": names(language) for language in LANGUAGES}
    else:
        listed = package.npm != "@iconify-json/fluent-emoji"  # which says of no icon what emoji it shows
        contents["icons.json"] = icons(package.npm.split("/")[-1])
        contents["chars.json"] = {code.lower(): icon for code, icon, _, _ in SUBJECTS} if listed else {}
    for name, value in contents.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), "utf-8")
