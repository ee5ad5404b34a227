"""Stages that turn traced networks into the files of one target: lower, lint, write."""

from __future__ import annotations

from microforge_export.build.stage_values import Linted, Lowered, OutputFolder, Planned, Traced, Written
from microforge_export.build.stages import StageProgress
from microforge_export.components.component import trace
from microforge_export.quantization.build_steps import CalibrationData, lower_int8, record_calibration
from microforge_export.recipes.build_recipe import TargetRecipe
from microforge_export.targets.descriptions import ComponentDescription, ModelDescription, describe
from microforge_export.targets.registry import lowering


def trace_components(planned: Planned) -> Traced:
    """Trace every component once, for all targets."""
    return Traced({component.key: trace(component) for component in planned.components})


def sample_for_int8(planned: Planned, progress: StageProgress) -> CalibrationData:
    """Generate the samples that INT8 targets are calibrated on and compared with."""
    recipes = [target.int8 for target in planned.recipe.targets if target.int8 is not None]
    return record_calibration(planned.model, planned.components, recipes, progress.report)


def lower_target(target: TargetRecipe, planned: Planned, traced: Traced) -> Lowered:
    """Lower all components for a target in floating point."""
    return Lowered(lowering(target)(planned.components, traced.programs))


def lower_target_int8(
    target: TargetRecipe, planned: Planned, traced: Traced, calibration: CalibrationData
) -> Lowered:
    """Lower all components for a target as its INT8 recipe says."""
    return Lowered(lower_int8(target.required_int8(), planned.components, traced.programs, calibration))


def lint_target(lowered: Lowered) -> Linted:
    """Refuse graphs that the target's engines run badly."""
    lowered.artefacts.lint()
    return Linted(lowered.artefacts)


def write_target(target: TargetRecipe, planned: Planned, folder: OutputFolder, linted: Linted) -> Written:
    """Write the target's files into the bundle, with texts that describe them."""
    return Written({target.name: linted.artefacts.write(folder.path, artefact_descriptions(planned))})


def artefact_descriptions(planned: Planned) -> dict[str, ComponentDescription]:
    """The texts that the artefacts of a build carry, by component key."""
    model = planned.model
    description = ModelDescription(
        name=model.about.name,
        about=model.about.description,
        licence=model.about.licence,
        source=f"checkpoint with SHA-256 {model.checkpoint_sha256}",
        tasks=planned.recipe.tasks,
        sizes=tuple(str(size) for size in planned.sizes),
        texts=model.texts,
    )
    return describe(planned.components, description)
