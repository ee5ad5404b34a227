"""The manifest of a build, from its parts."""

from __future__ import annotations

import itertools
import types
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from microforge.bundle.files import file_entry
from microforge.bundle.manifest import Golden, Manifest, Provenance, Size, SizeEntry, Task, Tokenizer
from microforge.bundle.targets import ImageParity, Parity, Precision, Quality, Target, TargetName
from microforge.noise import NOISE_NAME
from microforge.version import __version__
from microforge_export.checks import test_images
from microforge_export.components.component import SourceComponent, SourceModel
from microforge_export.recipes.build_recipe import Recipe, SampleRequest
from microforge_export.targets.base import TargetFiles
from microforge_export.targets.registry import VERSIONS

TOKENIZER = "tokenizer.json"


def make_target(
    precision: Precision, made: TargetFiles, parity: Mapping[str, Parity], images: Mapping[str, ImageParity],
    tasks: Mapping[Task, ImageParity] = types.MappingProxyType({}),
    quality: Mapping[str, Quality] = types.MappingProxyType({}),
    precisions: Mapping[str, Precision] = types.MappingProxyType({}),
) -> Target:  # fmt: skip
    """The manifest's entry of one engine, with the measurements that there are so far.

    Args:
        images: by a name for people; the worst of them is recorded. tasks: the worst of every task.
        quality: of a quantized target, by size. precisions: of the components that are not in ``precision``.
    """
    operators = sum(item.operators for item in made.coverage.values())
    delegated = sum(item.delegated for item in made.coverage.values())
    return Target(
        precision=precision,
        files=dict(made.files),
        parts=dict(made.parts),
        shared_files=made.shared_files,
        shared_sha256=dict(made.shared_sha256),
        parity=dict(parity),
        image=max(images.values(), key=lambda item: item.max_abs_255, default=None),
        tasks={str(task): image for task, image in tasks.items()},
        precisions=dict(precisions),
        quality=dict(quality),
        memory=dict(made.memory),
        operators=dict(made.operators),
        coverage=dict(made.coverage),
        delegated_fraction=round(delegated / operators, 4) if operators else None,
    )


def worst_by_task(
    images: Mapping[str, ImageParity], requests: Sequence[SampleRequest], sizes: Sequence[Size]
) -> dict[Task, ImageParity]:
    """Of ``images``, by their names, the one furthest from the reference for every task."""
    found: dict[Task, ImageParity] = {}
    for request, size in itertools.product(requests, sizes):
        image = images.get(test_images.name(request.task, request.prompt, size))
        if image is not None and image.max_abs_255 >= found.get(request.task, image).max_abs_255:
            found[request.task] = image
    return found


def make_manifest(
    folder: Path, recipe: Recipe, model: SourceModel, sizes: Sequence[Size], components: Sequence[SourceComponent],
    targets: Mapping[TargetName, Target], golden: Golden,
) -> Manifest:  # fmt: skip
    """The manifest of the bundle in ``folder``."""
    packages = ("torch", *(name for target in targets for name in VERSIONS[target]))
    return Manifest(
        schema_version=1,
        model=dict(model.description),
        tasks=recipe.tasks,
        sizes=tuple(_size_entry(size, model) for size in sizes),
        sampler=model.sampler,
        latent=model.latent,
        noise=NOISE_NAME,
        tokenizer=_tokenizer(folder, model, recipe),
        components={component.key: component.entry() for component in components},
        targets=dict(targets),
        golden=golden,
        provenance=Provenance(
            checkpoint_sha256=model.checkpoint_sha256,
            versions={"microforge": __version__, **{name: version(name) for name in packages}},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def _tokenizer(folder: Path, model: SourceModel, recipe: Recipe) -> Tokenizer:
    source = model.tokenizer
    return Tokenizer(
        file=file_entry(folder, TOKENIZER),
        max_length=source.max_length,
        pad=source.pad,
        bos=source.bos,
        eos=source.eos,
        task_prefixes={task: source.task_prefixes[task] for task in recipe.tasks},
    )


def _size_entry(size: Size, model: SourceModel) -> SizeEntry:
    latent = model.latent
    shape = (latent.channels, size.height // latent.downsample, size.width // latent.downsample)
    return SizeEntry(height=size.height, width=size.width, latent_shape=shape)
