"""Stages that compare a bundle's files with PyTorch, through the runtime that ships, and complete its manifest."""

from __future__ import annotations

import json
import shutil
import types
from collections.abc import Mapping

from PIL import Image

from microforge.bundle.files import Bundle, file_entry, load_bundle, write_manifest
from microforge.bundle.manifest import Golden, Manifest, Trajectory
from microforge.bundle.targets import ImageParity, PeakBytes, Quality, TargetName
from microforge.errors import ParityError
from microforge_export.build.manifest import make_manifest, make_target, worst_by_task
from microforge_export.build.preview import fit_preview
from microforge_export.build.report import build_report
from microforge_export.build.stage_values import (
    DraftBundle,
    FinishedBundle,
    FittedPreview,
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
from microforge_export.checks.reference import record, reference_image
from microforge_export.checks.verify import verify
from microforge_export.memory.fit import predicted_peaks
from microforge_export.quantization.build_steps import CalibrationData, check_quality, other_precisions
from microforge_export.recipes.build_recipe import TargetRecipe

PREVIEW = "preview.png"
_UNMEASURED = TargetMeasurements({}, {}, {})


def record_references(planned: Planned) -> References:
    """Record the components' evaluations, and every whole image of the library's own pipeline, for all targets."""
    model, requests = planned.model, planned.model.requests
    images = {
        (size, request): reference_image(model, planned.driving, request, size)
        for size in planned.sizes
        for request in requests
    }
    recorded = record(model, planned.components, planned.sizes, requests, planned.recipe.tasks)
    return References(recorded, images)


def fit_the_preview(planned: Planned, progress: StageProgress) -> FittedPreview:
    """Fit the matrix that shows unfinished samples, to finished ones of the first task."""
    if planned.driving.tasks[planned.recipe.tasks[0]].source is not None:
        return FittedPreview(None)
    return FittedPreview(fit_preview(planned.model, planned.components, planned.sizes[0], progress.report))


def draft_bundle(
    folder: OutputFolder, planned: Planned, written: Written, fitted: FittedPreview
) -> DraftBundle:
    """Write the tokenizers and a manifest without measurements: what the runtimes need to open the files."""
    for relative, source in planned.model.files.items():
        (folder.path / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder.path / relative)
    write_manifest(folder.path, _manifest(planned, written, fitted, {}, Golden()))
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
            for sample in planned.model.requests:
                task = sample.task or bundle.manifest.default_task
                request = test_images.test_request(bundle.manifest, task, sample.prompt, sample.seed, size)
                image = generator.run(request).float_image
                images[test_images.name(bundle.manifest, task, sample.prompt, size)] = ImageParity(
                    max_abs_255=parity.image_difference_255(references.images[size, sample], image),
                    threshold=limits.image_max_diff_255,
                )
    return TargetMeasurements(components, images, quality)


def _within_limits(target: TargetRecipe, measured: TargetMeasurements) -> Measured:
    parity.require(target.name, measured.parity, measured.images)
    return Measured({target.name: measured})


def write_golden_files(folder: OutputFolder, planned: Planned, references: References) -> GoldenFiles:
    """Write the recorded evaluations and trajectories that every runtime can replay."""
    (folder.path / "golden").mkdir()
    cases = {}
    for key, values in references.recorded.cases.items():
        relative = f"golden/{key}.safetensors"
        golden.write_cases(folder.path / relative, values)
        cases[key] = file_entry(folder.path, relative)
    trajectories = []
    for (size, request), tensors in references.recorded.trajectories.items():
        task = request.task or planned.recipe.tasks[0]
        relative = f"golden/trajectory_{task}_{size}.safetensors"
        golden.write_tensors(folder.path / relative, tensors)
        trajectories.append(
            Trajectory(
                task=task, size=size, prompt=request.prompt, seed=request.seed,
                file=file_entry(folder.path, relative),
            )
        )  # fmt: skip
    return GoldenFiles(Golden(components=cases, trajectories=tuple(trajectories)))


def finish_bundle(
    folder: OutputFolder, planned: Planned, written: Written, measured: Measured, references: References,
    fitted: FittedPreview, files: GoldenFiles, seconds: StageSeconds,
) -> FinishedBundle:  # fmt: skip
    """Write the complete manifest, the report, and a preview that the bundle itself generates."""
    peaks = predicted_peaks(load_bundle(folder.path))
    manifest = _manifest(planned, written, fitted, measured.by_target, files.golden, peaks)
    bundle_id = write_manifest(folder.path, manifest)
    sample, size = planned.model.requests[0], planned.sizes[0]
    bundle, task = load_bundle(folder.path), sample.task or manifest.default_task
    with test_images.open_generator(bundle, planned.recipe.targets[0].name, size) as generator:
        request = test_images.test_request(manifest, task, sample.prompt, sample.seed, size)
        Image.fromarray(generator.run(request).image).save(folder.path / PREVIEW)
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
    planned: Planned, written: Written, fitted: FittedPreview,
    measured: Mapping[TargetName, TargetMeasurements], golden_files: Golden,
    peaks: Mapping[TargetName, Mapping[str, PeakBytes]] = types.MappingProxyType({}),
) -> Manifest:  # fmt: skip
    driving = planned.driving.model_copy(update={"preview": fitted.preview})
    targets = {}
    for target in planned.recipe.targets:
        known = measured.get(target.name, _UNMEASURED)
        targets[target.name] = make_target(
            target.precision, written.by_target[target.name], known.parity, known.images,
            worst_by_task(driving, known.images, planned.model.requests, planned.sizes), known.quality,
            other_precisions(target, planned.components), peaks.get(target.name, {}),
        )  # fmt: skip
    return make_manifest(planned.model, driving, planned.sizes, planned.components, targets, golden_files)
