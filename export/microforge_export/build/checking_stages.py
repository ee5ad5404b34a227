"""Stages that compare a bundle's files with PyTorch, through the runtime that ships, and complete its manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping

from PIL import Image

from microforge.bundle.files import Bundle, file_entry, load_bundle, write_manifest
from microforge.bundle.manifest import Golden, Manifest, Trajectory
from microforge.bundle.targets import ImageParity, Quality, TargetName
from microforge.errors import ParityError
from microforge_export.build.manifest import TOKENIZER, make_manifest, make_target, worst_by_task
from microforge_export.build.report import build_report
from microforge_export.build.stage_values import (
    DraftBundle,
    FinishedBundle,
    GoldenFiles,
    Measured,
    OutputFolder,
    Planned,
    References,
    TargetMeasurements,
    Traced,
    Written,
)
from microforge_export.build.stages import StageProgress, StageSeconds
from microforge_export.checks import golden, parity, test_images
from microforge_export.checks.inspect import REPORT
from microforge_export.checks.reference import drawing, record
from microforge_export.checks.verify import verify
from microforge_export.quantization.build_steps import CalibrationData, check_quality, other_precisions
from microforge_export.recipes.build_recipe import TargetRecipe
from microforge_runtimes.sampler import to_pixels

PREVIEW = "preview.png"
_UNMEASURED = TargetMeasurements({}, {}, {})


def record_references(planned: Planned) -> References:
    """Record the components' evaluations, and every whole image of the library's own pipeline, for all targets."""
    requests = planned.recipe.requests
    images = {
        (size, request): drawing(planned.model, request, size)
        for size in planned.sizes
        for request in requests
    }
    return References(record(planned.model, planned.components, requests), images)


def draft_bundle(folder: OutputFolder, planned: Planned, written: Written) -> DraftBundle:
    """Write the tokenizer and a manifest without measurements: what the runtimes need to open the files."""
    shutil.copyfile(planned.model.tokenizer.path, folder.path / TOKENIZER)
    write_manifest(folder.path, _manifest(folder, planned, written, {}, Golden()))
    return DraftBundle(load_bundle(folder.path))


def check_parity(
    target: TargetRecipe, planned: Planned, references: References, draft: DraftBundle
) -> Measured:
    """Compare components and whole images of a target with PyTorch.

    Raises:
        ParityError: if a limit is missed; names every component and image.
    """
    return _within_limits(target, _measure(target, planned, references, draft.bundle, {}))


def check_parity_int8(
    target: TargetRecipe, planned: Planned, traced: Traced, calibration: CalibrationData,
    references: References, draft: DraftBundle, progress: StageProgress,
) -> Measured:  # fmt: skip
    """As ``check_parity``, and compare the INT8 quality of the target with its limits.

    Raises:
        QualityError: if a limit is missed; names the component and operator group at fault.
        ParityError: as ``check_parity``.
    """
    quality = check_quality(
        draft.bundle, target.required_int8(), planned.model, planned.components, traced.programs, calibration,
        progress.report,
    )  # fmt: skip
    return _within_limits(target, _measure(target, planned, references, draft.bundle, quality))


def _measure(
    target: TargetRecipe, planned: Planned, references: References, bundle: Bundle, quality: Mapping[str, Quality]
) -> TargetMeasurements:  # fmt: skip
    limits = target.thresholds
    components = parity.measure_components(
        bundle, target.name, references.recorded.cases, threshold_db=limits.component_psnr_db
    )
    images = {}
    for size in planned.sizes:
        with test_images.open_generator(bundle, target.name, size) as generator:
            for request in planned.recipe.requests:
                source = test_images.given(request.task, size)
                image = test_images.draw_float(generator, request.task, request.prompt, request.seed, source)
                images[test_images.name(request.task, request.prompt, size)] = ImageParity(
                    max_abs_255=parity.image_difference_255(references.images[size, request], image),
                    threshold=limits.image_max_diff_255,
                )
    return TargetMeasurements(components, images, quality)


def _within_limits(target: TargetRecipe, measured: TargetMeasurements) -> Measured:
    parity.require(target.name, measured.parity, measured.images)
    return Measured({target.name: measured})


def write_golden_files(folder: OutputFolder, references: References) -> GoldenFiles:
    """Write the recorded evaluations and trajectories that every runtime can replay."""
    (folder.path / "golden").mkdir()
    cases = {}
    for key, values in references.recorded.cases.items():
        relative = f"golden/{key}.safetensors"
        golden.write_cases(folder.path / relative, values)
        cases[key] = file_entry(folder.path, relative)
    trajectories = []
    for (size, request), tensors in references.recorded.trajectories.items():
        task = "" if request.task == "generate" else f"{request.task}_"
        relative = f"golden/trajectory_{task}{size}.safetensors"
        golden.write_tensors(folder.path / relative, tensors)
        trajectories.append(
            Trajectory(
                task=request.task, size=size, prompt=request.prompt, seed=request.seed,
                file=file_entry(folder.path, relative),
            )
        )  # fmt: skip
    return GoldenFiles(Golden(components=cases, trajectories=tuple(trajectories)))


def finish_bundle(
    folder: OutputFolder, planned: Planned, written: Written, measured: Measured, references: References,
    files: GoldenFiles, seconds: StageSeconds,
) -> FinishedBundle:  # fmt: skip
    """Write the complete manifest, the report, and a preview that the bundle itself generates."""
    manifest = _manifest(folder, planned, written, measured.by_target, files.golden)
    bundle_id = write_manifest(folder.path, manifest)
    request, size = planned.recipe.requests[0], planned.sizes[0]
    bundle = load_bundle(folder.path)
    with test_images.open_generator(bundle, planned.recipe.targets[0].name, size) as generator:
        source = test_images.given(request.task, size)
        image = test_images.draw_float(generator, request.task, request.prompt, request.seed, source)
    Image.fromarray(to_pixels(image)).save(folder.path / PREVIEW)
    report = build_report(folder, planned, written, measured, references, manifest, seconds)
    (folder.path / REPORT).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return FinishedBundle(manifest, bundle_id)


def verify_bundle(folder: OutputFolder, _: FinishedBundle) -> None:
    """Read back what was written, as ``mf-export verify`` does.

    Raises:
        ParityError: if anything is not as it was written.
    """
    result = verify(load_bundle(folder.path))
    if result.problems:
        raise ParityError("; ".join(result.problems))


def _manifest(
    folder: OutputFolder, planned: Planned, written: Written,
    measured: Mapping[TargetName, TargetMeasurements], golden_files: Golden,
) -> Manifest:  # fmt: skip
    targets = {}
    for target in planned.recipe.targets:
        known = measured.get(target.name, _UNMEASURED)
        targets[target.name] = make_target(
            target.precision, written.by_target[target.name], known.parity, known.images,
            worst_by_task(known.images, planned.recipe.requests, planned.sizes), known.quality,
            other_precisions(target, planned.components),
        )  # fmt: skip
    return make_manifest(
        folder.path, planned.recipe, planned.model, planned.sizes, planned.components, targets, golden_files
    )
