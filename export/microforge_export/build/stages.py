"""What a build knows and how its stages run: each takes the state and returns the next one; the order is checked first."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from microforge.bundle.manifest import Golden, Manifest, Size
from microforge.bundle.targets import ImageParity, Parity, Quality, TargetName
from microforge_export.checks.reference import Reference
from microforge_export.components.component import SourceComponent, SourceModel
from microforge_export.quantization.build_steps import CalibrationData
from microforge_export.recipes.build_recipe import Recipe, SampleRequest
from microforge_export.targets.base import Artefacts, TargetFiles

#: Told of every stage before it starts: number from 1, count, name.
Reporter = Callable[[int, int, str], None]


@dataclass(frozen=True)
class State:
    """Everything a build knows; a stage fills the fields that it ``gives``. Mappings by target grow target by target."""

    recipe: Recipe
    load: Callable[[], SourceModel]
    folder: Path | None = None  # None in a dry run
    model: SourceModel | None = None
    sizes: tuple[Size, ...] | None = None
    components: tuple[SourceComponent, ...] | None = None
    programs: Mapping[str, ExportedProgram] | None = None
    int8_drawings: CalibrationData | None = None  # what INT8 targets are calibrated with and judged by
    artefacts: Artefacts | None = None  # of the target that is being made; written ones are let go
    made: Mapping[TargetName, TargetFiles] | None = None
    reference: Reference | None = None
    drawings: Mapping[tuple[Size, SampleRequest], NDArray[np.float32]] | None = None
    manifest: Manifest | None = None
    parity: Mapping[TargetName, Mapping[str, Parity]] | None = None
    images: Mapping[TargetName, Mapping[str, ImageParity]] | None = None
    quality: Mapping[TargetName, Mapping[str, Quality]] | None = None  # of INT8 targets, by size
    golden: Golden | None = None
    bundle_id: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    detail: Callable[[str], None] = lambda _: None  # told what a long stage is at

    def get(self, name: str) -> Any:
        """A field that an earlier stage has given."""
        value = getattr(self, name)
        if value is None:
            raise LookupError(f"no stage has given {name!r} yet")
        return value


@dataclass(frozen=True)
class BuildStage:
    """A pure step of a build: reads the fields ``needs`` and returns new values for the fields ``gives``."""

    name: str
    needs: tuple[str, ...]
    gives: tuple[str, ...]
    run: Callable[[State], Mapping[str, Any]]


def check_order(stages: Sequence[BuildStage], given: Sequence[str]) -> None:
    """Refuse stages that read a field before it is there.

    Raises:
        ValueError: names the stage and the field.
    """
    known = set(given)
    for stage in stages:
        missing = [name for name in stage.needs if name not in known]
        if missing:
            raise ValueError(f"stage {stage.name!r} needs {missing[0]!r}, which no earlier stage gives")
        known.update(stage.gives)


def run_stages(stages: Sequence[BuildStage], state: State, report: Reporter = lambda *_: None) -> State:
    """The state after all ``stages``; their order is checked before the first one runs."""
    given = [item.name for item in dataclasses.fields(state) if getattr(state, item.name) is not None]
    check_order(stages, given)
    for number, stage in enumerate(stages, 1):
        report(number, len(stages), stage.name)
        start = time.perf_counter()
        detail = functools.partial(_detail, report, number, len(stages), stage.name)
        values = stage.run(dataclasses.replace(state, detail=detail))
        if set(values) != set(stage.gives):
            raise ValueError(f"stage {stage.name!r} gave {sorted(values)}, declared: {sorted(stage.gives)}")
        seconds = {**state.seconds, stage.name: round(time.perf_counter() - start, 3)}
        state = dataclasses.replace(state, **values, seconds=seconds)
    return state


def _detail(report: Reporter, number: int, count: int, name: str, what: str) -> None:
    report(number, count, f"{name}: {what}")
