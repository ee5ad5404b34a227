"""Compressed weights for Core ML: one component by any scheme, and all packages of a bundle by a recipe.

Core ML computes in half precision however the weights are stored. A recipe chooses the storage per component, so
each component has one operator group, ``weights``. Nothing is timed here, because that needs an Apple device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch.export import ExportedProgram

from microforge_export.components.component import SourceComponent
from microforge_export.quantization.base import CandidateSession, RecordedInputs
from microforge_export.recipes.int8_recipe import SCHEMES, Int8Recipe, Scheme, resolve, role_schemes
from microforge_export.targets.coreml.lower import Deployment, Weights, lower
from microforge_export.targets.coreml.package import SUFFIX, save
from microforge_export.targets.coreml.target import CoreMLArtefacts
from microforge_runtimes.engines.coreml import MilSession

#: The only operator group of a component.
GROUP = "weights"
#: Storage of the weights by scheme; the computation stays in half precision.
STORED: Mapping[Scheme, Weights] = {
    "fp16": "none",
    "linear8": "int8",
    "palettize6": "palette6",
    "palettize4": "palette4",
}


@dataclass(frozen=True)
class CoreMLQuantizable:
    """A component and its traced program. Candidates run on the interpreter, which tells nothing about speed."""

    component: SourceComponent
    program: ExportedProgram
    deployment: Deployment = "ios17"

    @classmethod
    def make(
        cls, component: SourceComponent, program: ExportedProgram, inputs: RecordedInputs, folder: Path
    ) -> CoreMLQuantizable:
        """See ``base.QuantizableFactory``. Weights need no calibration, and candidates share nothing."""
        return cls(component, program)

    def groups(self) -> dict[str, tuple[Scheme, ...]]:
        """See ``base.QuantizableComponent``."""
        return {GROUP: SCHEMES["coreml"][1:]}

    @contextmanager
    def candidate(
        self, schemes: Mapping[str, Scheme], threads: int | None = None
    ) -> Iterator[CandidateSession]:
        """See ``base.QuantizableComponent``; the interpreter ignores ``threads``."""
        weights = STORED[schemes.get(GROUP, "fp16")]
        model = lower(self.component, self.program, deployment=self.deployment, weights=weights)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{self.component.key}{SUFFIX}"
            files = save(model, path)
            session = MilSession(path, self.component.entry())
            try:
                yield CandidateSession(
                    session, sum(file.stat().st_size for file in files if file.suffix == ".bin")
                )
            finally:
                session.close()


def lower_all_int8(
    components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram], *, recipe: Int8Recipe,
    inputs: Mapping[str, RecordedInputs], deployment: Deployment | None = None,
) -> CoreMLArtefacts:  # fmt: skip
    """See ``base.QuantizedLower``; ``inputs`` are ignored.

    Args:
        components: the components of a bundle.
        programs: their traced programs, by component key.
        recipe: the schemes.
        inputs: ignored.
        deployment: oldest system; None for iOS 18 if components share weights, and so a package, and else iOS 17.

    Raises:
        SpecError: if the recipe names another group than ``weights`` or ``*``.
        GraphLintError: if coremltools cannot lower a component; names it.
    """
    shared = any(item.weights_of is not None for item in components)
    oldest: Deployment = deployment or ("ios18" if shared else "ios17")
    models = {}
    for item in components:
        quantizable = CoreMLQuantizable(item, programs[item.key], oldest)
        schemes = resolve(role_schemes(recipe, item.role, item.family), quantizable.groups(), "coreml")
        models[item.key] = lower(
            item, quantizable.program, precision="fp16", deployment=oldest, weights=STORED[schemes[GROUP]]
        )
    return CoreMLArtefacts(models, {item.key: item.family for item in components}, oldest)
