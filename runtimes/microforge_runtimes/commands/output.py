"""What ``mf-generate`` writes: marked, perhaps signed images, and a summary for programs."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microforge.errors import OutputError, SpecError
from microforge.io.atomic import atomic_bytes
from microforge_runtimes.commands.batch import preview_path
from microforge_runtimes.generator import Result
from microforge_runtimes.images.source_request import SourceRequest
from microforge_runtimes.marks.c2pa_signature import Signer, can_be_parent, read_signer, sign_image
from microforge_runtimes.marks.image_encoding import encode_image, image_format
from microforge_runtimes.marks.settings import Settings, mask_digest
from microforge_runtimes.marks.xmp import SourceType
from microforge_runtimes.sampler import Step, StepCallback

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageWriter:
    """Writes the images of one call.

    ``request`` is what is made of a source image, whose file's content is ``parent``; ``private`` leaves settings out.
    """

    request: SourceRequest | None
    parent: bytes | None
    signer: Signer | None
    private: bool
    force: bool

    @property
    def source_type(self) -> SourceType:
        return "trainedAlgorithmicMedia" if self.request is None else "compositeWithTrainedAlgorithmicMedia"

    def write(self, path: Path, pixels: Pixels, settings: Settings | None) -> None:
        """Write ``pixels`` (h, w, 3) or (h, w, 4) as the file ``path``.

        Raises:
            OutputError: when they cannot be written so.
        """
        profile = None if self.request is None else self.request.source.profile
        data = encode_image(
            pixels, image_format(path), self.source_type, None if self.private else settings,
            None if profile is None else profile.icc,
        )  # fmt: skip
        if self.signer is not None:
            data = sign_image(data, self.signer, self.source_type, self.parent)
        atomic_bytes(path, data, self.force)

    def preview_writer(self, path: Path, downsample: int, then: StepCallback) -> StepCallback:
        """A callback that writes the preview of every step beside the image ``path``, then calls ``then``.

        Previews are small; they are written at the model's own size, ``downsample`` pixels per latent cell.
        """

        def on_step(step: Step) -> None:
            pixels = step.preview()
            if pixels is None:
                raise SpecError("this model has no preview; leave --preview out, or build the bundle again")
            size = (step.latent.shape[3] * downsample, step.latent.shape[2] * downsample)
            large = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
            data = encode_image(np.asarray(large, np.uint8), "PNG", self.source_type)
            atomic_bytes(preview_path(path, step.index), data, self.force)
            then(step)

        return on_step


def make_writer(
    out: Path, request: SourceRequest | None, source: Path | None, private: bool, force: bool,
    certificate: Path | None, key: Path | None,
) -> ImageWriter:  # fmt: skip
    """A writer, after everything that can be refused before an image is generated.

    Raises:
        OutputError: for a format that cannot hold the image.
        SpecError: for a certificate without a key, or a key without a certificate.
        DataError, MissingExtraError: as ``read_signer``.
    """
    if image_format(out) == "JPEG" and request is not None and request.source.alpha is not None:
        raise OutputError(f"--source is transparent, which JPEG cannot hold; name {out} .png or .webp")
    if (certificate is None) != (key is None):
        raise SpecError("--c2pa-certificate and --c2pa-key belong together; give both")
    signer = None if certificate is None or key is None else read_signer(certificate, key)
    parent = None
    if signer is not None and request is not None and source is not None:
        parent = source.read_bytes()
        if not can_be_parent(parent):  # C2PA does not know the format, a BMP: its pixels then
            parent = encode_image(request.source.stored, "PNG", "compositeWithTrainedAlgorithmicMedia")
    return ImageWriter(request, parent, signer, private, force)


def check_transparent(transparent: bool, out: Path, source: Path | None) -> None:
    """Refuse a name that cannot hold the image, or ``--transparent`` where alpha is the source's.

    Raises:
        OutputError: for an ending that is not allowed.
        SpecError: with a source image.
    """
    if image_format(out) == "JPEG" and transparent:
        raise OutputError(f"--transparent needs alpha, which JPEG cannot hold; name {out} .png or .webp")
    if transparent and source is not None:
        raise SpecError(
            "--transparent is for images from a prompt; with --source the result has the source's alpha"
        )


def settings_of(
    result: Result, request: SourceRequest | None, prompt: str | None, target: str, threads: int | None,
    guidance: Mapping[str, float] = types.MappingProxyType({}),
) -> Settings:  # fmt: skip
    """The settings that ``result`` was generated with; ``guidance`` are the scales that the user chose."""
    return Settings(
        task=result.task, prompt=prompt, seed=result.seed, steps=result.steps, height=result.height,
        width=result.width, bundle=result.bundle_id, target=target, threads=threads,
        factor=request.factor if request is not None and request.enlarges else None,
        composite=request is not None and request.composite,
        strength=result.strength, negative=result.negative, guidance=dict(guidance) or None,
        source_sha256=None if request is None else request.source.digest(),
        mask_sha256=None if request is None or request.mask is None else mask_digest(request.mask),
    )  # fmt: skip


def summary(result: Result, pixels: Pixels, path: Path, target: str) -> dict[str, object]:
    """One image as JSON values."""
    return {
        "image": str(path.absolute()),
        "prompt": result.prompt,
        "negative": result.negative,
        "guidance": dict(result.guidance),
        "seed": result.seed,
        "size": [pixels.shape[0], pixels.shape[1]],
        "drawn_size": [result.height, result.width],
        "task": result.task,
        "steps": result.steps,
        "bundle": result.bundle_id,
        "target": target,
        "truncated": result.truncated,
        "seconds": {stage: round(seconds, 4) for stage, seconds in result.seconds.items()},
    }
