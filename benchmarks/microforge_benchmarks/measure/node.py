"""One operator of an engine's profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from microforge.bundle.manifest import Component

#: Kind of operator and seconds of every evaluation, the first included, of one node.
Node = tuple[str, Sequence[float]]


#: The nodes of a component: file, key, component, threads, evaluations.
Profiler = Callable[[Path, str, Component, int | None, int], Iterable[Node]]
