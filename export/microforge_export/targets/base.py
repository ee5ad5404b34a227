"""The interface of a target: lower all components, then lint and write the result.

``registry.lowering`` returns the ``Lower`` of a target. Its result is checked by ``lint`` and written by ``write``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch.export import ExportedProgram

from microforge.bundle.entry import FileEntry
from microforge.bundle.targets import Coverage, Memory
from microforge_export.components.component import SourceComponent
from microforge_export.targets.descriptions import ComponentDescription

#: Largest number of axes of a tensor: the limit of Core ML and of mobile execution providers.
MAX_RANK = 5
#: Largest finite number of half precision. Accelerators may compute in it even if a file declares fp32.
HALF_MAX = 65504.0


@dataclass(frozen=True, kw_only=True)
class Usability:
    """Support of a graph by one accelerator, as a tool reports it.

    Attributes:
        nodes: nodes of the graph.
        supported: nodes that the accelerator supports.
        partitions: pieces that the supported nodes form; 0 if the tool does not tell.
        verdict: "yes", "maybe" or "no", whether the tool expects a gain; "unknown" if it does not tell.
        unsupported: operators that the accelerator does not support.
        method: how the tool decides.
    """

    nodes: int
    supported: int
    partitions: int
    verdict: str
    unsupported: tuple[str, ...]
    method: str = "static analysis"


@dataclass(frozen=True)
class TargetFiles:
    """The files of a target in a bundle, and what is known before they run.

    Fields are those of ``bundle.targets.Target``. ``usability`` (component key -> accelerator) is written to the report
    only.
    """

    files: Mapping[str, FileEntry]
    operators: Mapping[str, int]
    shared_files: tuple[FileEntry, ...] = ()
    shared_sha256: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, tuple[FileEntry, ...]] = field(default_factory=dict)
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    memory: Mapping[str, Memory] = field(default_factory=dict)
    usability: Mapping[str, Mapping[str, Usability]] = field(default_factory=dict)


class Artefacts(Protocol):
    """All components lowered for one target, in memory."""

    def lint(self) -> None:
        """Refuse graphs that the engines of the target cannot run, or run badly.

        Raises:
            GraphLintError: names the component and the nodes at fault.
        """
        ...

    def write(self, folder: Path, descriptions: Mapping[str, ComponentDescription] = ...) -> TargetFiles:
        """Write the files of the target into the bundle ``folder``; may be called once.

        Args:
            folder: the bundle.
            descriptions: texts by component key that the files carry, if their format can; none by default.
        """
        ...


class Lower(Protocol):
    """Lowers components and their traced programs, by component key, for one target."""

    def __call__(
        self, components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram]
    ) -> Artefacts: ...


def most_frequent_first(counts: Mapping[str, int]) -> dict[str, int]:
    """``counts`` in descending order, and by name where they are equal."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
