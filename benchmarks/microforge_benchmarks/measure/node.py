"""Types of an engine's profile: a node of a graph, and a function that measures all nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from microforge.bundle.manifest import Component

#: Kind of operator of one node, and the seconds of every evaluation, including the first.
Node = tuple[str, Sequence[float]]
#: (file, key, component, threads, evaluations) -> the nodes of a component.
Profiler = Callable[[Path, str, Component, int | None, int], Iterable[Node]]
