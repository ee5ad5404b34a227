"""A bundle that is not on disk: a manifest in memory over networks that something else runs, such as torch modules.

It lets a checkpoint be used through the runtime, and an export make its references with the code that ships.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Component, Driving, Manifest, ModelEntry, Provenance, Size, SizeEntry
from microforge.errors import BundleError
from microforge.noise import NOISE_NAME


@dataclass(frozen=True)
class UnwrittenBundle(Bundle):
    """A bundle without a folder; ``sources`` says where the files that its manifest names lie: path -> file."""

    sources: Mapping[str, Path] = field(default_factory=dict)

    def locate(self, relative: str) -> Path:
        """The source of the file ``relative``."""
        if relative not in self.sources:
            raise BundleError(f"{self.path} has no file {relative}")
        return self.sources[relative]


def size_entries(sizes: Iterable[Size], driving: Driving) -> tuple[SizeEntry, ...]:
    """The manifest's entries of image sizes."""
    return tuple(
        SizeEntry(height=size.height, width=size.width, latent_shape=driving.latent.shape(size))
        for size in sizes
    )


def unwritten_bundle(
    driving: Driving, components: Mapping[str, Component], sizes: Sequence[Size], model: ModelEntry, *,
    path: Path, sources: Mapping[str, Path], checkpoint_sha256: str,
) -> UnwrittenBundle:  # fmt: skip
    """The bundle of a model in memory; its id is the start of the checkpoint's hash.

    Raises:
        pydantic.ValidationError: when driving and components do not agree.
    """
    tokenizers = {item.file.path: item.file.bytes for item in driving.tokenizers.values()}
    manifest = Manifest(
        **{name: getattr(driving, name) for name in Driving.model_fields},
        schema_version=2,
        model=model,
        bytes=sum(tokenizers.values()),
        sizes=size_entries(sizes, driving),
        noise=NOISE_NAME,
        components=dict(components),
        targets={},
        provenance=Provenance(checkpoint_sha256=checkpoint_sha256, versions={}, created=""),
    )
    return UnwrittenBundle(path, manifest, checkpoint_sha256[:12], sources=sources)
