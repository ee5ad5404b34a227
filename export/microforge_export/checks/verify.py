"""Check a bundle against itself: every hash, and every golden case through the shipped runtime. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from microforge.bundle.entry import FileEntry
from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Manifest, Task, Trajectory
from microforge.bundle.targets import ImageParity, Parity, Target, TargetName
from microforge.errors import BundleError
from microforge_export.checks import golden, parity, test_images
from microforge_export.checks.metrics import Metric
from microforge_export.checks.verify_int8 import (
    recorded_metrics,
    replayed_guidance_norm_ratio,
    replayed_image,
)

#: Told what is checked next.
Reporter = Callable[[str], None]


@dataclass(frozen=True)
class Verification:
    """What was measured, and everything that is not as it must be, one phrase each."""

    parity: Mapping[TargetName, Mapping[str, Parity]]
    images: Mapping[TargetName, Mapping[str, ImageParity]]
    problems: tuple[str, ...]
    metrics: Mapping[TargetName, tuple[Metric, ...]] = field(default_factory=dict)  # of quantized targets


@dataclass
class _Findings:
    parity: dict[TargetName, dict[str, Parity]] = field(default_factory=dict)
    images: dict[TargetName, dict[str, ImageParity]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    metrics: dict[TargetName, list[Metric]] = field(default_factory=dict)


def verify(bundle: Bundle, report: Reporter = lambda _: None) -> Verification:
    """Check the hashes of all files, then replay the golden files of every target through its runtime.

    A file whose hash is wrong does not end the check: the parity that follows tells which component it hurts.
    """
    report("hashes")
    findings = _Findings(problems=_hash_problems(bundle))
    opened = _as_found(bundle) if findings.problems else bundle
    for name in bundle.manifest.targets:
        findings.parity[name], findings.images[name] = {}, {}
        findings.metrics[name] = recorded_metrics(bundle.manifest.targets[name])
        for key in bundle.manifest.targets[name].files:
            report(f"{name} {key}")
            _component(findings, opened, name, key)
        for trajectory in bundle.manifest.golden.trajectories:
            report(f"{name} sample of {trajectory.task} at {trajectory.size}")
            _trajectory(findings, opened, name, trajectory)
    if not bundle.manifest.targets:
        findings.problems.append("the bundle has no target; build it again")
    if not bundle.manifest.golden.trajectories:
        findings.problems.append("the bundle has no golden sample; build it again")
    for name in bundle.manifest.targets:
        findings.problems += parity.shortfalls(name, findings.parity[name], findings.images[name])
        findings.problems += [f"{name}: {item.phrase()}" for item in findings.metrics[name] if not item.met]
    metrics = {name: tuple(items) for name, items in findings.metrics.items()}
    return Verification(findings.parity, findings.images, tuple(findings.problems), metrics)


def _hash_problems(bundle: Bundle) -> list[str]:
    problems = []
    for entry in bundle.files():
        try:
            bundle.checked(entry)
        except BundleError as error:
            problems.append(f"{_owner(bundle, entry)}: {error}")
    return problems


def _owner(bundle: Bundle, entry: FileEntry) -> str:
    """What a file of the bundle, which is damaged, is part of."""
    manifest = bundle.manifest
    for name, target in manifest.targets.items():
        own = {key: (value, *target.parts.get(key, ())) for key, value in target.files.items()}
        keys = [key for key, values in own.items() if entry.path in [value.path for value in values]]
        if keys:
            return f"{name} {', '.join(keys)}"
        if entry.path in [value.path for value in target.shared_files]:
            return f"{name} weights of {', '.join(_hurt(bundle, target))}"
    for key, value in manifest.golden.components.items():
        if value.path == entry.path:
            return f"golden cases of {key}"
    words = [value.file.path for value in manifest.tokenizers.values()]
    return "tokenizer" if entry.path in words else "golden sample"


def _hurt(bundle: Bundle, target: Target) -> list[str]:
    """The components that read other bytes in the target's shared files than were written for them; all if none does."""
    from microforge_export.targets.onnx.shared_weights import shared_digest

    found = [
        key
        for key, expected in target.shared_sha256.items()
        if (path := _present(bundle, target.files[key].path)) is not None and shared_digest(path) != expected
    ]
    return found or list(target.files)


def _present(bundle: Bundle, relative: str) -> Path | None:
    """Path of the bundle's file ``relative``, right or wrong; None without one."""
    try:
        path = bundle.locate(relative)
    except BundleError:
        return None
    return path if os.path.isfile(path) else None


def _component(findings: _Findings, bundle: Bundle, target: TargetName, key: str) -> None:
    recorded = bundle.manifest.targets[target].parity.get(key)
    entry = bundle.manifest.golden.components.get(key)
    if recorded is None or entry is None:
        findings.problems.append(
            f"{target} {key} has no golden cases or no recorded parity; build the bundle again"
        )
        return
    try:
        cases = golden.read_cases(bundle.checked(entry))
        findings.parity[target] |= parity.measure_components(
            bundle, target, {key: cases}, threshold_db=recorded.threshold_db
        )
        if bundle.manifest.components[key].role == _first_task(bundle).network:
            findings.metrics[target] += replayed_guidance_norm_ratio(bundle, target, key, cases)
    except (BundleError, ValueError) as error:  # ValueError: golden inputs that do not fit the component
        findings.problems.append(f"{target} {key} cannot be run: {error}")


def _trajectory(findings: _Findings, bundle: Bundle, target: TargetName, trajectory: Trajectory) -> None:
    entry, size = bundle.manifest.targets[target], trajectory.size
    recorded = entry.tasks.get(trajectory.task, entry.image)
    name = test_images.name(bundle.manifest, trajectory.task, trajectory.prompt, size)
    if recorded is None:
        findings.problems.append(f"{target} image of {name} has no recorded parity; build the bundle again")
        return
    try:
        tensors = golden.read_trajectory(bundle.checked(trajectory.file), trajectory.renamed)
        reference, request = tensors["image"], golden.trajectory_request(trajectory, tensors)
        with test_images.open_generator(bundle, target, size) as generator:
            image = generator.run(request).float_image
    except (BundleError, ValueError, KeyError) as error:
        findings.problems.append(f"{target} image of {name} cannot be made: {error}")
        return
    difference = parity.image_difference_255(reference, image)
    if trajectory.task == bundle.manifest.default_task:  # the one that limits were measured for
        findings.metrics[target] += replayed_image(entry, name, str(size), reference, image)
    findings.images[target][name] = ImageParity(max_abs_255=difference, threshold=recorded.threshold)


def _first_task(bundle: Bundle) -> Task:
    return bundle.manifest.tasks[bundle.manifest.default_task]


def _as_found(bundle: Bundle) -> Bundle:
    """``bundle`` with the sizes and hashes that its files really have, so that damaged ones can be opened."""

    def corrected(value: Any) -> Any:
        if isinstance(value, list):
            return [corrected(item) for item in value]
        if not isinstance(value, dict):
            return value
        if set(value) == set(FileEntry.model_fields):
            try:
                return bundle.stored_entry(value["path"]).model_dump()
            except (OSError, BundleError):
                return value
        return {key: corrected(item) for key, item in value.items()}

    values = corrected(bundle.manifest.model_dump(mode="json"))
    words = file_bytes(values["tokenizers"])
    values["bytes"] = sum(file_bytes(values).values())
    for target in values["targets"].values():
        target["bytes"] = sum({**words, **file_bytes(target)}.values())
    return replace(bundle, manifest=Manifest.model_validate(values), _checked={})


def file_bytes(value: Any) -> dict[str, int]:
    """Path -> bytes of every file entry in JSON values."""
    if isinstance(value, dict) and set(value) == set(FileEntry.model_fields):
        return {value["path"]: value["bytes"]}
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {path: count for child in children for path, count in file_bytes(child).items()}
