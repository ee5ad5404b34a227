"""A build: a list of typed stages from a request to a verified bundle.

read -> choose components | trace -> samples for INT8 -> (lower -> lint -> write) of every target ->
references -> preview -> draft -> parity of every target -> golden files -> manifest -> verify

The two stages before the bar are the plan: a dry run ends there. All targets are lowered from one trace and
compared with one reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from microforge.bundle.manifest import MANIFEST, Manifest
from microforge.io.atomic import atomic_folder, check_output
from microforge_export.build import checking_stages, lowering_stages
from microforge_export.build.planning import PLANNING
from microforge_export.build.stage_values import (
    BuildRequest,
    FinishedBundle,
    Linted,
    Lowered,
    OutputFolder,
    Planned,
)
from microforge_export.build.stages import (
    BuildStage,
    ProgressCallback,
    StageSeconds,
    StageValues,
    check_order,
    run_stages,
)
from microforge_export.components.component import SourceModel
from microforge_export.recipes.build_recipe import Recipe, TargetRecipe
from microforge_export.targets.registry import require_packages


@dataclass(frozen=True)
class BuildResult:
    """A finished build: the bundle's manifest and id, and the seconds of every stage."""

    manifest: Manifest
    bundle_id: str
    seconds: StageSeconds


def plan(recipe: Recipe, load: Callable[[], SourceModel]) -> Planned:
    """Read the model and choose sizes and components. Nothing is traced or written.

    Raises:
        MissingExtraError: if the packages of a target are not installed.
        CheckpointError: if the model cannot be read.
        SpecError: if the model cannot have a size or a task.
    """
    require_packages(target.name for target in recipe.targets)
    return run_stages(PLANNING, StageValues(BuildRequest(recipe, load))).get(Planned)


def build(
    recipe: Recipe, load: Callable[[], SourceModel], out: Path, force: bool = False,
    progress: ProgressCallback = lambda *_: None,
) -> BuildResult:  # fmt: skip
    """Build the bundle ``out``; it appears complete at the end, or not at all.

    Args:
        recipe: every choice and limit of the build.
        load: reads the model; called once, after ``out`` was found to be writable.
        out: folder of the bundle.
        force: replace an existing bundle.
        progress: called before each stage.

    Raises:
        OutputExistsError: if ``out`` exists and ``force`` is not set.
        OutputError: if ``out`` cannot be written.
        MissingExtraError: as ``plan``.
        CheckpointError: as ``plan``.
        SpecError: as ``plan``.
        GraphLintError: if a graph cannot be lowered or an engine would run it badly.
        ParityError: if a result differs from PyTorch by more than its limit.
    """
    check_output(out, force)
    planning = frozenset({BuildRequest, OutputFolder})
    check_order((*PLANNING, *stages_of(recipe)), planning)
    planned = plan(recipe, load)
    with atomic_folder(out, force, marker=MANIFEST) as folder:
        # The plan has read the INT8 recipes, so the stages are listed again.
        values = StageValues(planned, OutputFolder(folder))
        run_stages(stages_of(planned.recipe), values, progress)
    finished = values.get(FinishedBundle)
    return BuildResult(finished.manifest, finished.bundle_id, values.get(StageSeconds))


def stages_of(recipe: Recipe) -> tuple[BuildStage, ...]:
    """The stages that follow the plan."""
    int8 = any(target.precision == "int8" for target in recipe.targets)
    sampling = (BuildStage("sample for int8", lowering_stages.sample_for_int8),)
    return (
        BuildStage("trace", lowering_stages.trace_components),
        *(sampling if int8 else ()),
        *(stage for target in recipe.targets for stage in _lowering(target)),
        BuildStage("record references", checking_stages.record_references),
        BuildStage("fit the preview", checking_stages.fit_the_preview),
        BuildStage("draft the manifest", checking_stages.draft_bundle),
        *(_checking(target) for target in recipe.targets),
        BuildStage("write golden files", checking_stages.write_golden_files),
        BuildStage("write manifest and preview", checking_stages.finish_bundle),
        BuildStage("verify the result", checking_stages.verify_bundle),
    )


def _lowering(target: TargetRecipe) -> tuple[BuildStage, ...]:
    int8 = target.precision == "int8"
    lower = lowering_stages.lower_target_int8 if int8 else lowering_stages.lower_target
    write = functools.partial(lowering_stages.write_target, target)
    return (
        BuildStage(f"lower for {target.name}", functools.partial(lower, target)),
        BuildStage(f"lint for {target.name}", lowering_stages.lint_target, releases=(Lowered,)),
        BuildStage(f"write for {target.name}", write, releases=(Linted,)),
    )


def _checking(target: TargetRecipe) -> BuildStage:
    int8 = target.precision == "int8"
    check = checking_stages.check_parity_int8 if int8 else checking_stages.check_parity
    return BuildStage(f"check parity of {target.name}", functools.partial(check, target))
