"""What a build does more for a target in INT8: recipes, drawings to calibrate and to judge with, the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch.export import ExportedProgram

from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Size
from microforge.bundle.targets import Precision, Quality, TargetName
from microforge.errors import SpecError
from microforge.streams import FixedSeed
from microforge_export.components.component import SourceComponent, SourceModel
from microforge_export.quantization.base import RecordedInputs
from microforge_export.quantization.calibration import (
    Roll,
    calibration_inputs,
    captions,
    of_size,
    roll,
    sizes_of,
    torch_runner,
)
from microforge_export.quantization.quality import Reporter, manifest_quality, reference_rolls
from microforge_export.quantization.quality_gate import QualityEvidence, require_quality
from microforge_export.quantization.registry import quantized_lowering
from microforge_export.recipes.build_recipe import (
    Recipe,
    SampleRequest,
    TargetRecipe,
    shipped_recipe,
    with_int8,
)
from microforge_export.recipes.int8_recipe import Int8Recipe, component_precision
from microforge_export.targets.base import Artefacts


@dataclass(frozen=True)
class CalibrationData:
    """Recorded inputs of every target by component key, and torch's drawings to judge by at every size."""

    inputs: Mapping[TargetName, Mapping[str, RecordedInputs]]
    requests: tuple[SampleRequest, ...]
    references: Mapping[Size, tuple[Roll, ...]]


def read_recipes(recipe: Recipe, model: SourceModel) -> Recipe:
    """``recipe`` with an INT8 recipe for every INT8 target: the user's own, or the one shipped for ``model``.

    Raises:
        SpecError: when a target has no INT8 path or no recipe, or the task generate is not asked for.
    """
    name, sampler = str(model.description.get("name")), model.sampler
    steps = len(sampler.timesteps) - 1 if sampler.guidance == "folded" else None
    targets = []
    for target in recipe.targets:
        if target.precision == "int8":
            if "generate" not in recipe.tasks:
                raise SpecError("int8 is judged by drawings, which need the task generate: add it to --tasks")
            quantized_lowering(target.name)
            target = target if target.int8 else with_int8(target, shipped_recipe(name, target.name, steps))
        targets.append(target)
    return replace(recipe, targets=tuple(targets))


def record_drawings(
    model: SourceModel, components: Sequence[SourceComponent], recipes: Sequence[Int8Recipe], report: Reporter
) -> CalibrationData:
    """Generate with torch what ``recipes`` calibrate with and are judged by: each drawing once."""
    most = max(item.calibration.samples for item in recipes)
    requests = captions(max(item.limits.images for item in recipes), FixedSeed.QUANTIZATION_QUALITY)
    calibrated: dict[Size, tuple[Roll, ...]] = {}
    references: dict[Size, tuple[Roll, ...]] = {}
    for size in sizes_of(components):
        chosen = of_size(components, size)
        run = torch_runner(chosen)
        rolls = []
        for index, request in enumerate(captions(most, FixedSeed.CALIBRATION)):
            report(f"calibration {index + 1}/{most} at {size}")
            rolls.append(roll(model, chosen, run, request))
        calibrated[size] = tuple(rolls)
        references[size] = reference_rolls(
            model, chosen, run, requests, lambda what, size=size: report(f"{what} at {size}")  # type: ignore[misc]
        )  # fmt: skip
    inputs = {item.target: _inputs(item, components, calibrated) for item in recipes}
    return CalibrationData(inputs, requests, references)


def _inputs(
    recipe: Int8Recipe, components: Sequence[SourceComponent], rolls: Mapping[Size, Sequence[Roll]]
) -> dict[str, RecordedInputs]:
    found: dict[str, RecordedInputs] = {}
    for item in components:
        # A component of every size sees the same inputs at each of them.
        size = item.size if item.size is not None else next(iter(rolls))
        chosen = rolls[size][: recipe.calibration.samples]
        found[item.key] = calibration_inputs(chosen, item.role, recipe.calibration.inputs)
    return found


def lower_int8(
    recipe: Int8Recipe, components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram], drawings: CalibrationData
) -> Artefacts:  # fmt: skip
    """The artefacts of the recipe's target."""
    lower = quantized_lowering(recipe.target)
    return lower(components, programs, recipe=recipe, inputs=drawings.inputs[recipe.target])


def judge(
    bundle: Bundle, recipe: Int8Recipe, model: SourceModel, components: Sequence[SourceComponent],
    programs: Mapping[str, ExportedProgram], drawings: CalibrationData, report: Reporter,
) -> dict[str, Quality]:  # fmt: skip
    """Quality of the recipe's target in a bundle, by size.

    Raises:
        QualityError: when a limit of the recipe is missed; names the component and the operator group at fault.
    """
    count, found = recipe.limits.images, {}
    for size, references in drawings.references.items():
        evidence = QualityEvidence(
            model, of_size(components, size), programs, drawings.inputs[recipe.target], drawings.requests[:count],
            references[:count],
        )  # fmt: skip
        quality = require_quality(
            bundle, recipe, evidence, lambda what, size=size: report(f"{what} at {size}")  # type: ignore[misc]
        )  # fmt: skip
        found[str(size)] = manifest_quality(quality, recipe.limits)
    return found


def other_precisions(target: TargetRecipe, components: Sequence[SourceComponent]) -> dict[str, Precision]:
    """The components that the recipe of an INT8 target leaves in floating point, by key."""
    if target.int8 is None:
        return {}
    known = {item.key: component_precision(target.int8, item.role) for item in components}
    return {key: value for key, value in known.items() if value != "int8"}
