"""The steps that only a build in INT8 has: choose the recipe, generate samples, quantize, check the quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch.export import ExportedProgram

from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Size
from microforge.bundle.targets import Precision, Quality, TargetName
from microforge.errors import SpecError
from microforge.streams import FixedSeed
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_export.quantization.base import RecordedInputs
from microforge_export.quantization.calibration import (
    RecordedSample,
    calibration_inputs,
    of_size,
    record_sample,
    sample_requests,
    sizes_of,
    torch_runner,
)
from microforge_export.quantization.quality import Reporter, manifest_quality, reference_samples
from microforge_export.quantization.quality_gate import QualityEvidence, require_quality
from microforge_export.quantization.registry import quantized_lowering
from microforge_export.recipes.build_recipe import (
    Recipe,
    TargetRecipe,
    shipped_recipe,
    with_int8,
)
from microforge_export.recipes.int8_recipe import Int8Recipe, component_precision
from microforge_export.targets.base import Artefacts


@dataclass(frozen=True)
class CalibrationData:
    """Samples that PyTorch generated for INT8 targets: to calibrate on, and to compare with.

    Attributes:
        inputs: recorded inputs by target and component key.
        requests: what ``references`` were generated from.
        references: samples by image size, in the order of ``requests``.
    """

    inputs: Mapping[TargetName, Mapping[str, RecordedInputs]]
    requests: tuple[SampleRequest, ...]
    references: Mapping[Size, tuple[RecordedSample, ...]]


def with_int8_recipes(recipe: Recipe, model: SourceModel) -> Recipe:
    """``recipe`` with an INT8 recipe for every INT8 target: the user's, or the one that ships for ``model``.

    Raises:
        SpecError: if a target has no INT8 path or no recipe, or no task without an image is asked for.
    """
    targets = tuple(
        _with_int8_recipe(target, recipe, model) if target.precision == "int8" else target
        for target in recipe.targets
    )
    return replace(recipe, targets=targets)


def _with_int8_recipe(target: TargetRecipe, recipe: Recipe, model: SourceModel) -> TargetRecipe:
    driving = model.provider.driving(recipe.tasks)
    if driving.tasks[recipe.tasks[0]].source is not None:
        raise SpecError("int8 is checked by samples of a task that needs no image: add one to --tasks")
    quantized_lowering(target.name)  # refuses a target without an INT8 path
    if target.int8 is not None:
        return target
    steps = None if driving.guidance else driving.samplers[0].steps  # of a distilled model
    return with_int8(target, shipped_recipe(model.about.name, target.name, steps))


def record_calibration(
    model: SourceModel, components: Sequence[SourceComponent], recipes: Sequence[Int8Recipe], report: Reporter
) -> CalibrationData:
    """Generate with PyTorch what ``recipes`` calibrate on and are compared with: each sample once per size."""
    count = max(item.calibration.samples for item in recipes)
    requests = sample_requests(
        model, max(item.limits.images for item in recipes), FixedSeed.QUANTIZATION_QUALITY
    )
    calibration: dict[Size, tuple[RecordedSample, ...]] = {}
    references: dict[Size, tuple[RecordedSample, ...]] = {}
    for size in sizes_of(components):
        of_this_size = of_size(components, size)
        run = torch_runner(of_this_size)
        samples = []
        for index, request in enumerate(sample_requests(model, count, FixedSeed.CALIBRATION)):
            report(f"calibration sample {index + 1} of {count} at {size}")
            samples.append(record_sample(model, of_this_size, run, request))
        calibration[size] = tuple(samples)
        references[size] = reference_samples(model, of_this_size, run, requests, _at_size(report, size))
    inputs = {item.target: _recorded_inputs(item, components, calibration) for item in recipes}
    return CalibrationData(inputs, requests, references)


def _at_size(report: Reporter, size: Size) -> Reporter:
    return lambda message: report(f"{message} at {size}")


def _recorded_inputs(
    recipe: Int8Recipe,
    components: Sequence[SourceComponent],
    samples: Mapping[Size, Sequence[RecordedSample]],
) -> dict[str, RecordedInputs]:
    inputs: dict[str, RecordedInputs] = {}
    for item in components:
        # A component that serves every size sees the same inputs at each of them.
        size = item.size if item.size is not None else next(iter(samples))
        of_recipe = samples[size][: recipe.calibration.samples]
        inputs[item.key] = calibration_inputs(of_recipe, item.role, recipe.calibration.inputs)
    return inputs


def lower_int8(
    recipe: Int8Recipe, components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram],
    calibration: CalibrationData,
) -> Artefacts:  # fmt: skip
    """All components, lowered for the recipe's target as the recipe says."""
    lower = quantized_lowering(recipe.target)
    return lower(components, programs, recipe=recipe, inputs=calibration.inputs[recipe.target])


def check_quality(
    bundle: Bundle, recipe: Int8Recipe, model: SourceModel, components: Sequence[SourceComponent],
    programs: Mapping[str, ExportedProgram], calibration: CalibrationData, report: Reporter,
) -> dict[str, Quality]:  # fmt: skip
    """Measure the quality of the recipe's target in ``bundle``, by image size.

    Raises:
        QualityError: if a limit of the recipe is missed; names the component and operator group at fault.
    """
    count, quality = recipe.limits.images, {}
    for size, references in calibration.references.items():
        evidence = QualityEvidence(
            bundle, model, of_size(components, size), programs, calibration.inputs[recipe.target],
            calibration.requests[:count], references[:count],
        )  # fmt: skip
        measured = require_quality(bundle, recipe, evidence, _at_size(report, size))
        quality[str(size)] = manifest_quality(measured, recipe.limits)
    return quality


def other_precisions(target: TargetRecipe, components: Sequence[SourceComponent]) -> dict[str, Precision]:
    """The components that an INT8 target keeps in floating point, by component key."""
    if target.int8 is None:
        return {}
    precisions = {item.key: component_precision(target.int8, item.role, item.family) for item in components}
    return {key: value for key, value in precisions.items() if value != "int8"}
