"""The quantization interface that each target implements.

A ``QuantizableComponent`` is one component on one target before its schemes are chosen, and gives a candidate for
any choice. ``mf-export tune`` measures candidates, and the quality gate finds with them which operator group is at
fault. A build only uses the target's ``QuantizedLower``.
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

#: Inputs of one component, recorded while samples were generated (``calibration``).
RecordedInputs = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class CandidateSession:
    """A component under some choice of schemes, loaded by the shipped runtime.

    Attributes:
        session: runs the component.
        bytes: size of its constants.
    """

    session: Session
    bytes: int


class QuantizableComponent(Protocol):
    """One component on one target, ready for any choice of schemes."""

    @property
    def component(self) -> SourceComponent:
        """The component, in PyTorch."""
        ...

    def groups(self) -> Mapping[str, tuple[Scheme, ...]]:
        """The operator groups in the order of the graph, with the quantized schemes that each supports."""
        ...

    def candidate(
        self, schemes: Mapping[str, Scheme], threads: int | None = None
    ) -> AbstractContextManager[CandidateSession]:
        """Lower and load the component under ``schemes``.

        The session is closed and its files are deleted at the end of the block.

        Args:
            schemes: operator group -> scheme; groups that are not named stay in floating point.
            threads: threads of the engine; None for its default.
        """
        ...


class QuantizableFactory(Protocol):
    """Makes a ``QuantizableComponent`` from a component, its traced program and its recorded inputs.

    ``folder`` stores what candidates share, such as calibrated ranges.
    """

    def __call__(
        self, component: SourceComponent, program: ExportedProgram, inputs: RecordedInputs, folder: Path
    ) -> QuantizableComponent: ...


class QuantizedLower(Protocol):
    """Lowers all components as ``recipe`` says; deterministic.

    ``programs`` and ``inputs`` are the traced programs and the recorded inputs by component key. Raises SpecError
    if the recipe names operator groups that the model does not have, and GraphLintError if a result is not valid.
    """

    def __call__(
        self, components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram], *, recipe: Int8Recipe,
        inputs: Mapping[str, RecordedInputs],
    ) -> Artefacts: ...  # fmt: skip
