"""INT8 for LiteRT: quantizes one component by any schemes, and all models of a bundle by a recipe.

``dynamic`` stores int8 weights per channel, and the engine scales activations row by row in every evaluation.
``weight-only`` stores int8 weights and computes in fp32. Neither needs recorded inputs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch.export import ExportedProgram

from microforge_export.components.component import SourceComponent
from microforge_export.quantization.base import CandidateSession, RecordedInputs
from microforge_export.recipes.int8_recipe import Int8Recipe, Scheme, resolve, role_schemes
from microforge_export.targets.litert.convert import GROUPS, convert, quantize, refusing
from microforge_export.targets.litert.lower import LiteRTArtefacts, constant_bytes, lower_all, operators
from microforge_runtimes.engines.litert import LiteRTSession

_SUPPORTED: Mapping[str, tuple[Scheme, ...]] = {
    "matmul": ("weight-only", "dynamic"),
    "conv": ("weight-only", "dynamic"),
    "gather": ("weight-only",),
}


@dataclass(frozen=True)
class LiteRTQuantizable:
    """A component's traced program, converted in floating point once for all candidates."""

    component: SourceComponent
    program: ExportedProgram

    @classmethod
    def make(
        cls, component: SourceComponent, program: ExportedProgram, inputs: RecordedInputs, folder: Path
    ) -> LiteRTQuantizable:
        """See ``base.QuantizableFactory``; no scheme needs the recorded inputs."""
        return cls(component, program)

    @cached_property
    def model(self) -> bytes:
        """The component in floating point."""
        return convert([self.component], {self.component.key: self.program})

    def groups(self) -> dict[str, tuple[Scheme, ...]]:
        """See ``base.QuantizableComponent``."""
        return _groups(self.model)

    @contextmanager
    def candidate(
        self, schemes: Mapping[str, Scheme], threads: int | None = None
    ) -> Iterator[CandidateSession]:
        """See ``base.QuantizableComponent``."""
        key = self.component.key
        with refusing(key):
            model = quantize(self.model, schemes)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.tflite"
            path.write_bytes(model)
            session = LiteRTSession(path, key, self.component.entry(), threads)
            try:
                yield CandidateSession(session, constant_bytes(model))
            finally:
                session.close()


def lower_all_int8(
    components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram], *, recipe: Int8Recipe,
    inputs: Mapping[str, RecordedInputs],
) -> LiteRTArtefacts:  # fmt: skip
    """See ``base.QuantizedLower``. The signatures of one model share their weights, and so their schemes.

    Raises:
        SpecError: if the recipe names unknown operator groups, or schemes that a group does not support.
        GraphLintError: if litert-torch cannot convert a component; names it.
    """
    floating = lower_all(components, programs)
    models = {}
    for stem, model in floating.models.items():
        member = next(item for item in components if item.family == stem)
        schemes = resolve(role_schemes(recipe, member.role, member.family), _groups(model), "litert")
        with refusing(stem):
            models[stem] = quantize(model, schemes)
    return LiteRTArtefacts(models, floating.homes)


def _groups(model: bytes) -> dict[str, tuple[Scheme, ...]]:
    """The groups of which ``model`` has an operator, with the quantized schemes that each supports."""
    present = set(operators(model))
    return {
        group: _SUPPORTED[group]
        for group, kinds in GROUPS.items()
        if present & {kind.value for kind in kinds}
    }
