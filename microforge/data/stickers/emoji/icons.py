"""Iconify's JSON files: an icon's SVG by its name, and the names of icons by the emoji that they show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microforge.errors import DataError

#: The variation selector "draw as a picture", which some lists write and others leave out.
_AS_PICTURE = "fe0f"


@dataclass(frozen=True)
class Icon:
    """The inner SVG of an icon on ``width`` x ``height`` units; ``mirrored`` left to right."""

    body: str
    width: float
    height: float
    mirrored: bool = False

    def svg(self) -> str:
        """A complete SVG document on a square canvas, the icon in its middle."""
        side = max(self.width, self.height)
        left, top = (self.width - side) / 2, (self.height - side) / 2
        body = (
            f'<g transform="translate({self.width:g} 0) scale(-1 1)">{self.body}</g>'
            if self.mirrored
            else self.body
        )
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left:g} {top:g} {side:g} {side:g}">{body}</svg>'
        )


def glyph_id(hexcode: str) -> str:
    """An emoji's code points in lower-case hex, joined by dashes, without the selector "as a picture"."""
    return "-".join(part for part in hexcode.lower().split("-") if part != _AS_PICTURE)


def read_icons(folder: Path) -> dict[str, Icon]:
    """Every icon of an Iconify package by name, those that are variants of another one included.

    Raises:
        DataError: when ``icons.json`` is missing or not what Iconify writes.
    """
    values = read_json(folder / "icons.json")
    width, height = float(values.get("width", 16)), float(values.get("height", 16))
    try:
        icons = {
            name: Icon(entry["body"], float(entry.get("width", width)), float(entry.get("height", height)))
            for name, entry in values["icons"].items()
        }
        for name, entry in values.get("aliases", {}).items():
            parent = icons.get(entry["parent"])
            if parent is not None and not set(entry) - {"parent", "hFlip"}:
                icons[name] = Icon(parent.body, parent.width, parent.height, bool(entry.get("hFlip", False)))
    except (KeyError, TypeError, AttributeError):
        raise DataError(
            f"{folder / 'icons.json'} is no Iconify icon set; install the package again"
        ) from None
    return icons


def read_glyphs(folder: Path) -> dict[str, str]:
    """Emoji (``glyph_id``) -> name of the icon that shows it, from ``chars.json``."""
    return {glyph_id(code): str(name) for code, name in read_json(folder / "chars.json").items()}


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        DataError: when the file is missing, or holds anything else.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values
