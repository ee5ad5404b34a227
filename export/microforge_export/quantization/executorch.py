"""INT8 for ExecuTorch: quantizes one component by any schemes, and all programs of a bundle by a recipe."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch.export import ExportedProgram

from microforge_export.components.component import SourceComponent
from microforge_export.quantization.base import CandidateSession, RecordedInputs
from microforge_export.quantization.executorch_quantizer import quantize, supported_schemes
from microforge_export.recipes.int8_recipe import Int8Recipe, Scheme, resolve, role_schemes
from microforge_export.targets.executorch.lower import ExecutorchArtefacts, lower_all, refusing
from microforge_runtimes.engines.executorch import ExecutorchSession


@dataclass(frozen=True)
class ExecutorchQuantizable:
    """A component's traced program and its recorded inputs. Every candidate is lowered anew, which takes a while."""

    component: SourceComponent
    program: ExportedProgram
    inputs: RecordedInputs

    @classmethod
    def make(
        cls, component: SourceComponent, program: ExportedProgram, inputs: RecordedInputs, folder: Path
    ) -> ExecutorchQuantizable:
        """See ``base.QuantizableFactory``; candidates share nothing."""
        return cls(component, program, inputs)

    def groups(self) -> dict[str, tuple[Scheme, ...]]:
        """See ``base.QuantizableComponent``. Without recorded inputs no group supports ``static``."""
        supported = supported_schemes(self.program)
        if self.inputs:
            return supported
        return {
            group: tuple(item for item in items if item != "static") for group, items in supported.items()
        }

    def quantized(self, schemes: Mapping[str, Scheme]) -> ExportedProgram:
        """A quantized copy of the program; the program itself if every scheme is fp32.

        Raises:
            SpecError: as ``lower_all_int8``.
            GraphLintError: as ``lower_all_int8``.
        """
        if set(schemes.values()) <= {"fp32"}:
            return self.program
        with refusing(self.component.key):
            return quantize(self.component, self.program, schemes, self.inputs)

    @contextmanager
    def candidate(
        self, schemes: Mapping[str, Scheme], threads: int | None = None
    ) -> Iterator[CandidateSession]:
        """See ``base.QuantizableComponent``."""
        key = self.component.key
        artefacts = lower_all([self.component], {key: self.quantized(schemes)})
        with tempfile.TemporaryDirectory() as folder:
            files = artefacts.write(Path(folder)).files
            path = Path(folder) / files[key].path
            session = ExecutorchSession(path, key, self.component.entry(), threads)
            try:
                yield CandidateSession(session, artefacts.weights[key])
            finally:
                session.close()


def lower_all_int8(
    components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram], *, recipe: Int8Recipe,
    inputs: Mapping[str, RecordedInputs],
) -> ExecutorchArtefacts:  # fmt: skip
    """See ``base.QuantizedLower``. Methods of one program still share equal constants.

    Raises:
        SpecError: if the recipe names unknown operator groups, or schemes that a group does not support.
        GraphLintError: if ExecuTorch cannot lower a component; names it.
    """
    quantized = {}
    for item in components:
        quantizable = ExecutorchQuantizable(item, programs[item.key], inputs.get(item.key, ()))
        schemes = resolve(role_schemes(recipe, item.role, item.family), quantizable.groups(), "executorch")
        quantized[item.key] = quantizable.quantized(schemes)
    return lower_all(components, quantized)
