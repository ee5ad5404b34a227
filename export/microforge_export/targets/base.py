"""The engines that a bundle can be built for, each behind the same two steps: lower, then lint and write.

``lowering(target)`` gives a target's ``lower``; what that returns is checked by ``lint`` and written by
``write``. A target's module loads only when the target is asked for, after ``require_packages`` said that
it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch.export import ExportedProgram

from microforge.bundle.targets import Coverage, FileEntry, Memory
from microforge_export.components.component import SourceComponent

MAX_RANK = 5  # Core ML's limit, and what mobile execution providers accept at most
#: The largest finite number of half precision, in which accelerators may compute whatever the file says.
HALF_MAX = 65504.0


@dataclass(frozen=True, kw_only=True)
class Usability:
    """One accelerator's share of a graph: ``supported`` of ``nodes``, in ``partitions`` pieces (0: not said)."""

    nodes: int
    supported: int
    partitions: int
    verdict: str  # "yes", "maybe" or "no": whether the tool expects a gain; "unknown" where it does not say
    unsupported: tuple[str, ...]  # operators that the accelerator's list lacks
    method: str = "static analysis"


@dataclass(frozen=True)
class TargetFiles:
    """What a target has in a bundle, and what is known of it before it runs; fields as in ``bundle.Target``."""

    files: Mapping[str, FileEntry]
    operators: Mapping[str, int]
    shared_files: tuple[FileEntry, ...] = ()
    shared_sha256: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, tuple[FileEntry, ...]] = field(default_factory=dict)
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    memory: Mapping[str, Memory] = field(default_factory=dict)
    usability: Mapping[str, Mapping[str, Usability]] = field(
        default_factory=dict
    )  # key -> accelerator; not in the manifest


class Artefacts(Protocol):
    """All components lowered for one target, in memory."""

    def lint(self) -> None:
        """Refuse what the target's engines run badly.

        Raises:
            GraphLintError: names the component and what is at fault.
        """
        ...

    def write(self, folder: Path) -> TargetFiles:
        """Write the target's files into the bundle ``folder``; may be called once."""
        ...


class Lower(Protocol):
    """Components and their traced programs, by component key, to artefacts of one target."""

    def __call__(
        self, components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram]
    ) -> Artefacts: ...


def most_frequent_first(counts: Mapping[str, int]) -> dict[str, int]:
    """``counts`` in the order that a manifest lists operators in."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
