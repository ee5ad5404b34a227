"""Files and metadata lines of a data set that cannot be used, with the reason for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Skipped:
    """A file or metadata line that was left out of a data set, and the reason."""

    name: str
    reason: str


def printable(name: str) -> str:
    """Escape control characters and bytes that are not UTF-8, so that ``name`` can stand in a message."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def skip_summary(skipped: Sequence[Skipped], first: int = 10) -> str:
    """One line for a warning: the number of skipped items, and the first ones by name."""
    named = "; ".join(f"{printable(item.name)}: {printable(item.reason)}" for item in skipped[:first])
    return f"{len(skipped)} left out: {named}{'; ...' if len(skipped) > first else ''}"
