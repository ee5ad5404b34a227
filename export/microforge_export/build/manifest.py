"""The manifest of a build, from its parts."""

from __future__ import annotations

import itertools
import types
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from microforge.bundle.manifest import Driving, Golden, Manifest, Provenance, Size
from microforge.bundle.targets import ImageParity, Parity, PeakBytes, Precision, Quality, Target, TargetName
from microforge.bundle.unwritten import size_entries
from microforge.noise import NOISE_NAME
from microforge.version import __version__
from microforge_export.checks import test_images
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_export.targets.base import TargetFiles
from microforge_export.targets.registry import VERSIONS


def make_target(
    precision: Precision, made: TargetFiles, parity: Mapping[str, Parity], images: Mapping[str, ImageParity],
    tasks: Mapping[str, ImageParity] = types.MappingProxyType({}),
    quality: Mapping[str, Quality] = types.MappingProxyType({}),
    precisions: Mapping[str, Precision] = types.MappingProxyType({}),
    peaks: Mapping[str, PeakBytes] = types.MappingProxyType({}),
) -> Target:  # fmt: skip
    """The manifest's entry of one engine, with the measurements that there are so far; ``make_manifest`` adds its bytes.

    Args:
        images: by a name for people; the worst of them is recorded.
        tasks: the worst of every task.
        quality: of a quantized target, by size.
        precisions: of the components that are not in ``precision``.
        peaks: predicted bytes of the process, by size.
    """
    operators = sum(item.operators for item in made.coverage.values())
    delegated = sum(item.delegated for item in made.coverage.values())
    return Target(
        precision=precision,
        bytes=0,
        files=dict(made.files),
        parts=dict(made.parts),
        shared_files=made.shared_files,
        shared_sha256=dict(made.shared_sha256),
        parity=dict(parity),
        image=max(images.values(), key=lambda item: item.max_abs_255, default=None),
        tasks=dict(tasks),
        precisions=dict(precisions),
        quality=dict(quality),
        memory=dict(made.memory),
        peaks=dict(peaks),
        operators=dict(made.operators),
        coverage=dict(made.coverage),
        delegated_fraction=round(delegated / operators, 4) if operators else None,
    )


def worst_by_task(
    driving: Driving,
    images: Mapping[str, ImageParity],
    requests: Sequence[SampleRequest],
    sizes: Sequence[Size],
) -> dict[str, ImageParity]:
    """Of ``images``, by their names, the one furthest from the reference for every task."""
    worst: dict[str, ImageParity] = {}
    for request, size in itertools.product(requests, sizes):
        task = request.task or next(iter(driving.tasks))
        image = images.get(test_images.name(driving, task, request.prompt, size))
        if image is not None and image.max_abs_255 >= worst.get(task, image).max_abs_255:
            worst[task] = image
    return worst


def make_manifest(
    model: SourceModel, driving: Driving, sizes: Sequence[Size], components: Sequence[SourceComponent],
    targets: Mapping[TargetName, Target], golden: Golden,
) -> Manifest:  # fmt: skip
    """The manifest of a bundle; ``targets`` get their totals of bytes here."""
    packages = ("torch", *(name for target in targets for name in VERSIONS[target]))
    tokenizers = {item.file.path: item.file.bytes for item in driving.tokenizers.values()}
    files = {
        name: {entry.path: entry.bytes for entry in target.entries()} for name, target in targets.items()
    }
    checks = [*golden.components.values(), *(item.file for item in golden.trajectories)]
    every = {**tokenizers, **{entry.path: entry.bytes for entry in checks}}
    for paths in files.values():
        every |= paths
    return Manifest(
        **{name: getattr(driving, name) for name in Driving.model_fields},
        schema_version=2,
        model=model.about,
        bytes=sum(every.values()),
        sizes=size_entries(sizes, driving),
        noise=NOISE_NAME,
        components={component.key: component.entry() for component in components},
        targets={
            name: target.model_copy(update={"bytes": sum({**tokenizers, **files[name]}.values())})
            for name, target in targets.items()
        },
        golden=golden,
        provenance=Provenance(
            checkpoint_sha256=model.checkpoint_sha256,
            versions={"microforge": __version__, **{name: version(name) for name in packages}},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )
