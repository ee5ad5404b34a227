"""The manifest of a build, from its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import microforge
from microforge.bundle import (
    FileEntry,
    Golden,
    ImageParity,
    Manifest,
    Parity,
    Provenance,
    Size,
    SizeEntry,
    Target,
    Tokenizer,
)
from microforge.bundle_files import file_entry
from microforge.noise import NOISE_NAME
from microforge_export.program import Component, SourceModel
from microforge_export.recipe import Recipe

TOKENIZER, WEIGHTS = "tokenizer.json", "onnx/weights.bin"
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


def make_manifest(
    folder: Path, recipe: Recipe, model: SourceModel, sizes: Sequence[Size], components: Sequence[Component],
    files: Mapping[str, FileEntry], operators: Mapping[str, int], parity: Mapping[str, Parity],
    images: Mapping[str, ImageParity], golden: Golden,
) -> Manifest:  # fmt: skip
    """The manifest of the bundle in ``folder``, with the measurements that there are so far.

    Args:
        files: by component key, and the shared weights under ``WEIGHTS``.
        images: by a name for people; the worst of them is recorded.
    """
    target = Target(
        precision=recipe.precision,
        files={key: entry for key, entry in files.items() if key != WEIGHTS},
        shared_files=(files[WEIGHTS],),
        parity=dict(parity),
        image=max(images.values(), key=lambda item: item.max_abs_255, default=None),
        operators=dict(operators),
    )
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
        targets={recipe.target: target},
        golden=golden,
        provenance=Provenance(
            checkpoint_sha256=model.checkpoint_sha256,
            versions={"microforge": microforge.__version__, **{name: version(name) for name in _PACKAGES}},
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
