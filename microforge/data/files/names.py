"""Names of files as different systems write them: one comparison for folders, captions, metadata and edits."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterable


def comparable(name: str) -> str:
    """``name`` as a relative path in composed form (NFC) with ``/``.

    macOS stores "é" in file names as two characters, and Windows separates folders with backslashes.
    """
    return posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))


class NameIndex:
    """Relative paths that can be looked up as another system would write them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = set(names)
        self._composed = _unique({name: comparable(name) for name in self._exact})
        self._folded = _unique({name: _folded(name) for name in self._exact})

    def find(self, name: str) -> str | None:
        """The path that ``name`` means: the same one; else the only one that is equal in composed form and with ``/``;
        else the only one that is equal but for the case of letters. None when there is none, or more than one."""
        if name in self._exact:
            return name
        key = comparable(name)
        return self._composed[key] if key in self._composed else self._folded.get(_folded(name))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", comparable(name).casefold())


def _unique(keys: dict[str, str]) -> dict[str, str | None]:
    """Key -> the name that has it, None where several do."""
    names: dict[str, str | None] = {}
    for name, key in keys.items():
        names[key] = None if key in names else name
    return names
