"""Files of a data set that were left out, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Skipped:
    """Something that was left out, and why."""

    name: str
    reason: str


def printable(name: str) -> str:
    """``name`` for a message: control characters and bytes that are not UTF-8 are escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def skip_summary(skipped: Sequence[Skipped], first: int = 10) -> str:
    """One line for a warning: how many were left out, and the first ones by name."""
    named = "; ".join(f"{printable(item.name)}: {printable(item.reason)}" for item in skipped[:first])
    return f"{len(skipped)} left out: {named}{'; ...' if len(skipped) > first else ''}"
