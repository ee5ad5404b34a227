"""The networks of a MicroForge pipeline as components with names and static shapes, and how they are driven.

A bundle holds these networks in another form; a checkpoint is used through the runtime with the modules themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from microforge.bundle.files import file_entry
from microforge.bundle.manifest import Driving, ModelEntry, Size, TensorSpec
from microforge.bundle.reference_model import (
    DECODER,
    DENOISER,
    EDIT_DENOISER,
    IMAGE_ENCODER,
    TEXT_ENCODER,
    VARY,
    Facts,
    driving,
    task_entries,
)
from microforge.bundle.sampling import LatentSpace, Task
from microforge.bundle.unwritten import UnwrittenBundle, unwritten_bundle
from microforge.checkpoint import read_checkpoint, read_spec
from microforge.components.torch_session import Network, TorchOpener
from microforge.errors import SpecError
from microforge.pipeline import MicroForgePipeline
from microforge.spec import ModelSpec, check_size, to_dict
from microforge.tokenizer import BOS, EOS, PAD, TASK_IDS
from microforge.vae import MicroForgeVAE

TOKENIZER = "tokenizer.json"
DESCRIPTION = "Compact latent rectified-flow model for text to image and image editing on phones."


class VaeDecoder(nn.Module):
    """Raw latent (1, C, h, w) to an image (1, 3, H, W) in [0, 1]; (1, 4, H, W) of a decoder with alpha."""

    def __init__(self, vae: MicroForgeVAE) -> None:
        super().__init__()
        self.decoder = vae.decoder

    def forward(self, latent: Tensor) -> Tensor:
        return self.decoder(latent).clamp(0.0, 1.0)  # type: ignore[no-any-return]


class VaeEncoder(nn.Module):
    """Image (1, 3, H, W) in [0, 1] to the posterior mean (1, C, h, w), raw."""

    def __init__(self, vae: MicroForgeVAE) -> None:
        super().__init__()
        self.encoder = vae.encoder

    def forward(self, image: Tensor) -> Tensor:
        return self.encoder(image)[0]  # type: ignore[no-any-return]


def component_key(role: str, size: Size | None, sizes: Sequence[Size]) -> str:
    """``denoiser`` in a bundle of one size, ``denoiser_256x384`` in a bundle of several."""
    return role if size is None or len(sizes) == 1 else f"{role}_{size}"


def tensor(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    """A tensor specification."""
    return TensorSpec.model_validate({"name": name, "shape": shape, "dtype": dtype})


def all_tasks(spec: ModelSpec) -> tuple[str, ...]:
    """The tasks that a model was trained in, and those that need no training of their own."""
    return (*spec.tasks, VARY) if "generate" in spec.tasks else spec.tasks


def pipeline_networks(
    pipeline: MicroForgePipeline, sizes: Sequence[Size], tasks: Sequence[str]
) -> tuple[Network, ...]:
    """Text encoder, then per size the denoisers that ``tasks`` need, decoder and encoder.

    Raises:
        SpecError: for a size that is not a multiple of the autoencoder's factor.
    """
    spec = pipeline.spec
    assert isinstance(pipeline.text_encoder, nn.Module)
    length = spec.text_encoder.max_length
    ids, mask = tensor("ids", 1, length, dtype="int64"), tensor("mask", 1, length)
    networks = [Network(TEXT_ENCODER, TEXT_ENCODER, None, pipeline.text_encoder, (ids, mask), _text(spec))]
    for size in sizes:
        check_size(size.height, size.width, pipeline.vae.spec.downsample)
        if {"generate", VARY} & set(tasks):
            networks.append(_denoiser(DENOISER, pipeline, size, sizes))
        if set(tasks) - {"generate", VARY}:
            networks.append(_denoiser(EDIT_DENOISER, pipeline, size, sizes))
        latent = tensor("latent", *_latent_shape(spec, size))
        image = tensor("image", 1, 3, size.height, size.width)
        key = component_key(DECODER, size, sizes)
        decoded = tensor("image", 1, 4, size.height, size.width) if spec.vae.alpha else image
        networks.append(Network(key, DECODER, size, VaeDecoder(pipeline.vae).eval(), (latent,), (decoded,)))
        key = component_key(IMAGE_ENCODER, size, sizes)
        networks.append(
            Network(key, IMAGE_ENCODER, size, VaeEncoder(pipeline.vae).eval(), (image,), (latent,))
        )
    return tuple(networks)


def _denoiser(role: str, pipeline: MicroForgePipeline, size: Size, sizes: Sequence[Size]) -> Network:
    """Both layouts have one module, and so one set of weights; the edit layout takes a source beside z."""
    spec = pipeline.spec
    latent, (text, pooled) = _latent_shape(spec, size), _text(spec)
    plan = (1, spec.planner.num_plan_tokens, spec.planner.dim)
    inputs: tuple[TensorSpec, ...] = (
        tensor("z", *latent), tensor("t", 1), text, tensor("mask", 1, spec.text_encoder.max_length), pooled,
        tensor("plan", *plan), tensor("has_plan", 1),
    )  # fmt: skip
    if role == EDIT_DENOISER:
        inputs = (*inputs, tensor("source", *latent))
    outputs = tensor("velocity", *latent), tensor("next_plan", *plan)
    shared = DENOISER if role == EDIT_DENOISER else None
    return Network(component_key(role, size, sizes), role, size, pipeline.denoiser, inputs, outputs, shared)


def _latent_shape(spec: ModelSpec, size: Size) -> tuple[int, int, int, int]:
    vae = spec.vae
    return 1, vae.latent_channels, size.height // vae.downsample, size.width // vae.downsample


def _text(spec: ModelSpec) -> tuple[TensorSpec, TensorSpec]:
    text = spec.text_encoder
    return tensor("text", 1, text.max_length, text.embed_dim), tensor("pooled", 1, text.embed_dim)


def pipeline_driving(spec: ModelSpec, tokenizer: Path, tasks: Sequence[str]) -> Driving:
    """How the networks of a model are driven for ``tasks``; ``tokenizer`` is its ``tokenizer.json``."""
    sampler, entry = spec.sampler, file_entry(tokenizer.parent, tokenizer.name)
    return driving(
        Facts(
            tokenizer=entry.model_copy(update={"path": TOKENIZER}), length=spec.text_encoder.max_length,
            pad=PAD, bos=BOS, eos=EOS, prefixes=TASK_IDS, timesteps=sampler.timesteps,
            guidance=None if sampler.guidance_distilled else (sampler.text_guidance, sampler.image_guidance),
            preserve_distances=sampler.preserve_distances,
            latent=LatentSpace(
                channels=spec.latent_channels, downsample=spec.vae.downsample, mean=spec.vae.mean, std=spec.vae.std
            ),
            tasks=tuple(tasks),
            inputs=frozenset({"z", "t", "text", "mask", "pooled", "plan", "has_plan", "source"}),
        )
    )  # fmt: skip


def checkpoint_tasks(folder: Path) -> dict[str, Task]:
    """The tasks of a checkpoint; reads no weights.

    Raises:
        CheckpointError: for a missing folder, or a bad config.json.
    """
    return spec_tasks(read_spec(folder))


def spec_tasks(spec: ModelSpec) -> dict[str, Task]:
    """The tasks of a model with this configuration."""
    sampler = spec.sampler
    return task_entries(all_tasks(spec), not sampler.guidance_distilled, sampler.preserve_distances)


def about(spec: ModelSpec, licence: str = "") -> ModelEntry:
    """The model for people and apps; ``licence`` of its weights where it is known."""
    return ModelEntry(
        name=spec.name, description=DESCRIPTION, licence=licence, languages=("en",), config=to_dict(spec)
    )


def open_checkpoint(
    folder: Path, size: tuple[int, int] | None = None, pipeline: MicroForgePipeline | None = None
) -> tuple[UnwrittenBundle, TorchOpener]:
    """A checkpoint as a bundle in memory at one size, and what opens its networks.

    Args:
        folder: of the checkpoint.
        size: (height, width) in pixels; the trained size when None.
        pipeline: of ``folder``, where it is loaded already.

    Raises:
        CheckpointError: when it is missing, damaged or not trained far enough.
        SpecError: without a tokenizer, or for a size that is not a multiple of the autoencoder's factor.
    """
    checkpoint = read_checkpoint(folder)
    if checkpoint.tokenizer is None:
        raise SpecError(f"{folder} has no {TOKENIZER}, so it cannot read prompts")
    loaded = MicroForgePipeline.from_checkpoint(checkpoint) if pipeline is None else pipeline
    spec, (height, width) = loaded.spec, size or loaded.spec.native_size
    sizes, tasks = (Size(height=height, width=width),), all_tasks(spec)
    networks = pipeline_networks(loaded, sizes, tasks)
    bundle = unwritten_bundle(
        pipeline_driving(spec, checkpoint.tokenizer, tasks), {item.key: item.entry() for item in networks}, sizes,
        about(spec), path=folder, sources={TOKENIZER: checkpoint.tokenizer}, checkpoint_sha256=checkpoint.sha256,
    )  # fmt: skip
    return bundle, TorchOpener(networks)
