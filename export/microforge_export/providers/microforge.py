"""MicroForge checkpoints as models to export: the only file here that knows MicroForge's modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from microforge.bundle.manifest import Guidance, Latent, Role, Sampler, Size, Task, TensorSpec
from microforge.checkpoint import SHIPPED_STUDENT, Checkpoint, read_checkpoint
from microforge.errors import CheckpointError
from microforge.pipeline import MicroForgePipeline
from microforge.spec import ModelSpec, check_size, to_dict
from microforge.tokenizer import BOS, EOS, PAD, TASK_IDS, PromptTokenizer
from microforge.vae import MicroForgeVAE
from microforge_export.checks.test_images import SUPER_RESOLVE_FACTOR
from microforge_export.components.component import (
    SourceComponent,
    SourceModel,
    TokenizerSource,
    component_key,
    tensor,
)
from microforge_runtimes.editor import SOURCE_TASKS


class VaeDecoder(nn.Module):
    """Raw latent (1, C, h, w) to an image (1, 3, H, W) in [0, 1]."""

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


@dataclass(frozen=True)
class MicroForgeProvider:
    """A loaded pipeline, seen by the exporter."""

    pipeline: MicroForgePipeline

    def components(
        self, sizes: Sequence[Size], tasks: Sequence[Task] = ("generate",)
    ) -> tuple[SourceComponent, ...]:
        """Text encoder, then per size the denoisers that ``tasks`` need, decoder and encoder.

        Raises:
            SpecError: for a size that is not a multiple of the autoencoder's factor.
        """
        for size in sizes:
            check_size(size.height, size.width, self.pipeline.vae.spec.downsample)
        built = [self._text_encoder()]
        for size in sizes:
            if "generate" in tasks:
                built.append(self._denoiser("denoiser", size, sizes))
            if set(tasks) & set(SOURCE_TASKS):
                built.append(self._denoiser("denoiser_edit", size, sizes))
            built += self._vae(size, sizes)
        return tuple(built)

    def draw(self, prompt: str, seed: int, size: Size) -> NDArray[np.float32]:
        image = self.pipeline.text2img(prompt, size.height, size.width, seed=seed)
        return cast("NDArray[np.float32]", image.numpy())

    def redraw(
        self, task: Task, prompt: str | None, seed: int, source: NDArray[np.float32], mask: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:  # fmt: skip
        given = torch.from_numpy(source)
        if mask is not None:
            image = self.pipeline.inpaint(given, torch.from_numpy(mask), prompt, seed=seed)
        elif task == "edit":
            image = self.pipeline.edit(given, prompt, seed=seed)
        else:
            image = self.pipeline.super_resolve(given, SUPER_RESOLVE_FACTOR, prompt, seed=seed)
        return cast("NDArray[np.float32]", image.numpy())

    def _text_encoder(self) -> SourceComponent:
        spec = self.pipeline.spec.text_encoder
        assert isinstance(self.pipeline.text_encoder, nn.Module)
        ids = tensor("ids", 1, spec.max_length, dtype="int64")
        return SourceComponent(
            "text_encoder", "text_encoder", None, self.pipeline.text_encoder,
            (ids, tensor("mask", 1, spec.max_length)), _text(self.pipeline.spec),
        )  # fmt: skip

    def _denoiser(
        self, role: Literal["denoiser", "denoiser_edit"], size: Size, sizes: Sequence[Size]
    ) -> SourceComponent:
        """Both layouts have one module, and so one set of weights; the edit layout takes a source beside z."""
        spec, latent = self.pipeline.spec, self._latent_shape(size)
        text, pooled = _text(spec)
        plan = (1, spec.planner.num_plan_tokens, spec.planner.dim)
        inputs: tuple[TensorSpec, ...] = (
            tensor("z", *latent), tensor("t", 1), text, tensor("mask", 1, spec.text_encoder.max_length), pooled,
            tensor("plan", *plan), tensor("has_plan", 1),
        )  # fmt: skip
        if role == "denoiser_edit":
            inputs = (*inputs, tensor("source", *latent))
        outputs = tensor("velocity", *latent), tensor("next_plan", *plan)
        key = component_key(role, size, sizes)
        return SourceComponent(key, role, size, self.pipeline.denoiser, inputs, outputs)

    def _vae(self, size: Size, sizes: Sequence[Size]) -> tuple[SourceComponent, SourceComponent]:
        latent = tensor("latent", *self._latent_shape(size))
        image = tensor("image", 1, 3, size.height, size.width)

        def made(role: Role, module: nn.Module, source: TensorSpec, result: TensorSpec) -> SourceComponent:
            return SourceComponent(component_key(role, size, sizes), role, size, module, (source,), (result,))

        return (
            made("vae_decoder", VaeDecoder(self.pipeline.vae).eval(), latent, image),
            made("vae_encoder", VaeEncoder(self.pipeline.vae).eval(), image, latent),
        )

    def _latent_shape(self, size: Size) -> tuple[int, int, int, int]:
        vae = self.pipeline.vae.spec
        return 1, vae.latent_channels, size.height // vae.downsample, size.width // vae.downsample


def _text(spec: ModelSpec) -> tuple[TensorSpec, TensorSpec]:
    text = spec.text_encoder
    return tensor("text", 1, text.max_length, text.embed_dim), tensor("pooled", 1, text.embed_dim)


def read_model(folder: Path | None = None) -> SourceModel:
    """The checkpoint in ``folder``, or the student that ships with the package, ready to export.

    Raises:
        CheckpointError: when it is missing, damaged, not trained far enough, or has no fitting tokenizer.
    """
    folder = SHIPPED_STUDENT if folder is None else folder
    checkpoint = read_checkpoint(folder)
    if checkpoint.tokenizer is None:
        raise CheckpointError(f"{folder}: the checkpoint has no tokenizer.json, which a bundle needs")
    spec = checkpoint.spec
    tokenizer = PromptTokenizer.load(checkpoint.tokenizer)
    if tokenizer.vocab_size > spec.text_encoder.vocab_size:
        raise CheckpointError(
            f"{checkpoint.tokenizer} has {tokenizer.vocab_size} tokens, the text encoder {spec.text_encoder.vocab_size}"
        )
    return SourceModel(
        provider=MicroForgeProvider(_load(checkpoint, tokenizer)),
        description=to_dict(spec),
        sampler=_sampler(spec),
        latent=Latent(
            channels=spec.latent_channels,
            downsample=spec.vae.downsample,
            mean=spec.vae.mean,
            std=spec.vae.std,
        ),
        native_size=Size(height=spec.native_size[0], width=spec.native_size[1]),
        tasks=cast("tuple[Task, ...]", spec.tasks),
        tokenizer=TokenizerSource(
            checkpoint.tokenizer,
            spec.text_encoder.max_length,
            PAD,
            BOS,
            EOS,
            cast("dict[Task, int]", TASK_IDS),
        ),
        checkpoint_sha256=checkpoint.sha256,
    )


def _load(checkpoint: Checkpoint, tokenizer: PromptTokenizer) -> MicroForgePipeline:
    pipeline = MicroForgePipeline.from_spec(checkpoint.spec, tokenizer)
    for name, module in pipeline.modules_by_name().items():
        checkpoint.load_into(name, module)
    return pipeline.requires_grad_(False)


def _sampler(spec: ModelSpec) -> Sampler:
    sampler = spec.sampler
    scales = Guidance(text=sampler.text_guidance, image=sampler.image_guidance)
    return Sampler(
        timesteps=sampler.timesteps,
        guidance="folded" if sampler.guidance_distilled else scales,
        prediction="velocity",
        unchanged=sampler.preserve_distances if "edit" in spec.tasks else None,
    )
