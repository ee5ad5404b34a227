"""The values that stages of a build exchange, from the request to the finished bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Driving, Golden, Manifest, Size
from microforge.bundle.sampling import Preview
from microforge.bundle.targets import ImageParity, Parity, Quality
from microforge_export.build.stages import PerTarget
from microforge_export.checks.reference import Reference
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_export.recipes.build_recipe import Recipe
from microforge_export.targets.base import Artefacts, TargetFiles


@dataclass(frozen=True)
class BuildRequest:
    """What a caller asks for: a recipe, and a function that reads the model."""

    recipe: Recipe
    load: Callable[[], SourceModel]


@dataclass(frozen=True)
class LoadedModel:
    """The model, and the recipe with everything that the model decides filled in."""

    recipe: Recipe
    model: SourceModel


@dataclass(frozen=True)
class Planned:
    """Everything that is known before a network is traced; a dry run ends here."""

    recipe: Recipe
    model: SourceModel
    driving: Driving
    sizes: tuple[Size, ...]
    components: tuple[SourceComponent, ...]


@dataclass(frozen=True)
class OutputFolder:
    """The folder that the bundle is written to until it is complete."""

    path: Path


@dataclass(frozen=True)
class Traced:
    """The traced program of every component, by component key; all targets are lowered from these."""

    programs: Mapping[str, ExportedProgram]


@dataclass(frozen=True)
class Lowered:
    """All components lowered for one target, in memory."""

    artefacts: Artefacts


@dataclass(frozen=True)
class Linted:
    """Artefacts of one target that its lint accepted."""

    artefacts: Artefacts


@dataclass(frozen=True)
class Written(PerTarget[TargetFiles]):
    """The files of every target, in the output folder."""


@dataclass(frozen=True)
class References:
    """What artefacts are compared with: recorded evaluations, and images (1, 3, H, W) of the library's pipeline."""

    recorded: Reference
    images: Mapping[tuple[Size, SampleRequest], NDArray[np.float32]]


@dataclass(frozen=True)
class FittedPreview:
    """What shows unfinished samples; None for a model whose first task needs an image."""

    preview: Preview | None


@dataclass(frozen=True)
class DraftBundle:
    """The bundle with a manifest that lacks the measurements: enough for the runtimes to open its files."""

    bundle: Bundle


@dataclass(frozen=True)
class TargetMeasurements:
    """Parity of one target by component key, of its images by their names, and its INT8 quality by size."""

    parity: Mapping[str, Parity]
    images: Mapping[str, ImageParity]
    quality: Mapping[str, Quality]


@dataclass(frozen=True)
class Measured(PerTarget[TargetMeasurements]):
    """What was measured of every target, within its limits."""


@dataclass(frozen=True)
class GoldenFiles:
    """The entries of the golden files that were written."""

    golden: Golden


@dataclass(frozen=True)
class FinishedBundle:
    """The complete manifest and its id."""

    manifest: Manifest
    bundle_id: str
