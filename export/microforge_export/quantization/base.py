"""What a target offers so that its components can be made INT8 by measurement: the twin of ``targets``.

A ``QuantizableComponent`` is one component on one target before its schemes are chosen. ``mf-export tune`` tries schemes on
it, the quality gate finds what is at fault with it; a build only uses the target's ``QuantizedLower``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch.export import ExportedProgram

from microforge_export.checks.golden import Array
from microforge_export.components.component import SourceComponent
from microforge_export.recipes.int8_recipe import Int8Recipe, Scheme
from microforge_export.targets.base import Artefacts
from microforge_runtimes import Session

#: Inputs of one component that were recorded while images were drawn (``calibrate``).
RecordedInputs = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class CandidateSession:
    """A component with some choice of schemes, loaded by the shipped runtime, and the bytes of its constants."""

    session: Session
    bytes: int


class QuantizableComponent(Protocol):
    """One component on one target, ready for any choice of schemes."""

    @property
    def component(self) -> SourceComponent: ...

    def groups(self) -> Mapping[str, tuple[Scheme, ...]]:
        """Its operator groups in the order of the graph, each with the schemes it can have beside floating point."""
        ...

    def candidate(
        self, schemes: Mapping[str, Scheme], threads: int | None = None
    ) -> AbstractContextManager[CandidateSession]:
        """The component with ``schemes`` for the groups that are named and the rest in floating point; its
        session closes and its files go with the block.

        Args:
            threads: of the engine; its own choice when None.
        """
        ...


class QuantizableFactory(Protocol):
    """A component, its traced program and recorded inputs to a draft.

    ``folder`` keeps what is worth keeping between trials, such as calibrated ranges.
    """

    def __call__(
        self, component: SourceComponent, program: ExportedProgram, inputs: RecordedInputs, folder: Path
    ) -> QuantizableComponent: ...


class QuantizedLower(Protocol):
    """All components and their traced programs to artefacts, as ``recipe`` says; deterministic.

    ``inputs`` are the recorded ones by component key. Raises SpecError when the recipe names groups that the
    model has not, GraphLintError when a result is not valid.
    """

    def __call__(
        self, components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram], *, recipe: Int8Recipe,
        inputs: Mapping[str, RecordedInputs],
    ) -> Artefacts: ...  # fmt: skip
