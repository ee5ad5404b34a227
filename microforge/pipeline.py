"""The reference pipeline in PyTorch: text to image, edit, inpaint, super-resolve.

It is what exported bundles are compared with: fp32, no autocast, the portable noise of SPEC section 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microforge.backbone import MicroForgeBackbone
from microforge.checkpoint import SHIPPED_STUDENT, Checkpoint, read_checkpoint, write_checkpoint
from microforge.denoiser import Denoiser, build_backbone, build_planner
from microforge.errors import PromptError, SpecError
from microforge.latent_blending import after_step, latent_mask
from microforge.noise import standard_normal
from microforge.planner import RecurrentLatentPlanner
from microforge.sampling import StepCallback, batch_time, guided, guided_edit, integrate, uniform_grid
from microforge.spec import ModelSpec, TextEncoderSpec, check_size
from microforge.text_encoder import PAD_ID, SimpleTextEncoder, TextEncoder
from microforge.tokenizer import PromptTokenizer
from microforge.vae import MicroForgeVAE

__all__ = ["MicroForgePipeline", "SimpleTextEncoder"]

#: A prompt as text, or token ids (B, L) with 0 for padding.
Prompt = str | Sequence[str] | Tensor


@dataclass(frozen=True)
class Conditioning:
    """Encoded text: sequence (B, L, E), mask (B, L), pooled (B, E)."""

    text: Tensor
    mask: Tensor
    pooled: Tensor


class MicroForgePipeline(nn.Module):
    """VAE, denoiser and text encoder with a sampler; see ``from_pretrained`` for a trained one."""

    def __init__(
        self, vae: MicroForgeVAE, backbone: MicroForgeBackbone, text_encoder: TextEncoder,
        planner: RecurrentLatentPlanner, tokenizer: PromptTokenizer | None = None, spec: ModelSpec | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vae, self.backbone, self.text_encoder, self.planner = vae, backbone, text_encoder, planner
        self.denoiser = Denoiser(backbone, planner)
        self.tokenizer = tokenizer
        self.spec = spec or _describe(vae, backbone, text_encoder, planner)
        self.stages: tuple[str, ...] = ()
        self.eval()

    @classmethod
    def from_spec(cls, spec: ModelSpec, tokenizer: PromptTokenizer | None = None) -> MicroForgePipeline:
        """A pipeline of this configuration with random weights."""
        encoder = SimpleTextEncoder.from_spec(spec.text_encoder)
        return cls(
            MicroForgeVAE(spec.vae), build_backbone(spec), encoder, build_planner(spec), tokenizer, spec
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None) -> MicroForgePipeline:
        """Load a checkpoint folder, or the few-step student that ships with the package.

        Raises:
            CheckpointError: when the folder is missing, damaged or incomplete.
        """
        return cls.from_checkpoint(read_checkpoint(SHIPPED_STUDENT if folder is None else folder))

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> MicroForgePipeline:
        """The pipeline of a checkpoint in memory.

        Raises:
            CheckpointError: when it is incomplete.
        """
        tokenizer = PromptTokenizer.load(checkpoint.tokenizer) if checkpoint.tokenizer else None
        pipeline = cls.from_spec(checkpoint.spec, tokenizer)
        for name, module in pipeline.modules_by_name().items():
            checkpoint.load_into(name, module)
        pipeline.stages = checkpoint.stages
        return pipeline

    def save_pretrained(
        self, folder: str | Path, dtype: torch.dtype = torch.float32, base: str | None = None
    ) -> None:
        """Write config.json, model.safetensors and tokenizer.json; never pickle.

        Args:
            base: path, from ``folder``, of a checkpoint that what is the same is left to.
        """
        write_checkpoint(folder, self.spec, self.modules_by_name(), self.tokenizer, self.stages, dtype, base)

    def modules_by_name(self) -> dict[str, nn.Module]:
        """The four modules under the names that checkpoints use."""
        assert isinstance(self.text_encoder, nn.Module)
        return {
            "vae": self.vae, "backbone": self.backbone, "planner": self.planner, "text_encoder": self.text_encoder,
        }  # fmt: skip

    @torch.no_grad()
    def text2img(
        self, prompt: Prompt, height: int | None = None, width: int | None = None, num_steps: int | None = None,
        guidance: float | None = None, seed: int = 0, callback: StepCallback | None = None,
    ) -> Tensor:  # fmt: skip
        """Draw images for a prompt.

        Args:
            prompt: text, several texts, or token ids (B, L) with 0 for padding.
            height, width: pixels, multiples of the downsampling factor; the trained size by default.
            num_steps: a uniform grid of so many steps; the model's own grid by default.
            guidance: classifier-free scale (1 is off). Text prompts use the model's own by default; token
                ids default to 1, since without a tokenizer there is no empty prompt.
            seed: of the first image; image i of a batch uses seed + i.
        Returns:
            (B, 3, H, W) in [0, 1].
        """
        return self._decode(self.latents(prompt, height, width, num_steps, guidance, seed, callback))

    @torch.no_grad()
    def latents(
        self, prompt: Prompt, height: int | None = None, width: int | None = None, num_steps: int | None = None,
        guidance: float | None = None, seed: int = 0, callback: StepCallback | None = None,
    ) -> Tensor:  # fmt: skip
        """What ``text2img`` decodes: normalised latents (B, C, h, w). Arguments as there."""
        size = self._size(height, width)
        conditional = self._encode(prompt, "generate")
        scale = self._guidance(prompt, guidance)
        batch = conditional.text.shape[0]
        empty = self._empty("generate", batch, conditional) if scale != 1.0 else None
        velocity = self._guided_velocity(conditional, empty, scale)
        return integrate(velocity, self._noise(size, batch, seed), self.grid(num_steps), callback)

    @torch.no_grad()
    def edit(
        self, source: Tensor, instruction: Prompt | None, num_steps: int | None = None, text_guidance: float | None = None,
        image_guidance: float | None = None, seed: int = 0, callback: StepCallback | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Change ``source`` (B, 3, H, W) as ``instruction`` says; same size out. None is the empty instruction.

        What comes out close to the source is the source's own latent; ``SamplerSpec.preserve_distances`` says how close.
        With a ``mask`` (B, 1, H, W) only where it is 1: the rest is blended back as in ``inpaint``, whose errors it has.
        """
        return self._edit_task(
            "edit", source, instruction, num_steps, text_guidance, image_guidance, seed, callback, mask
        )

    @torch.no_grad()
    def inpaint(
        self, source: Tensor, mask: Tensor, prompt: Prompt | None = None, num_steps: int | None = None,
        text_guidance: float | None = None, image_guidance: float | None = None, seed: int = 0,
        callback: StepCallback | None = None,
    ) -> Tensor:  # fmt: skip
        """Fill the hole of ``source`` (B, 3, H, W) where ``mask`` (B, 1, H, W) is 1.

        Each step blends the known region back at the current noise level; pixels outside the mask are
        the source's own, bit for bit (SPEC section 6).

        Raises:
            SpecError: for a mask of another size or without a pixel to fill, or a size that is not allowed.
        """
        return self._edit_task(
            "inpaint", source, prompt, num_steps, text_guidance, image_guidance, seed, callback, mask
        )

    @torch.no_grad()
    def super_resolve(
        self, source: Tensor, factor: int = 2, prompt: Prompt | None = None, num_steps: int | None = None,
        text_guidance: float | None = None, image_guidance: float | None = None, seed: int = 0,
        callback: StepCallback | None = None,
    ) -> Tensor:  # fmt: skip
        """Draw ``source`` (B, 3, h, w) ``factor`` times larger, guided by its bicubic upsample: one drawing.

        ``mf-generate`` draws at twice the size in tiles and shrinks; see ``microforge_runtimes.images.source_image``.
        """
        if factor not in (2, 4, 8):
            raise SpecError(f"the factor of one drawing of super-resolution is {factor}; allowed: 2, 4, 8")
        upsampled = F.interpolate(source, scale_factor=factor, mode="bicubic", antialias=False).clamp(0, 1)
        return self._edit_task(
            "super-resolve", upsampled, prompt, num_steps, text_guidance, image_guidance, seed, callback
        )

    def _edit_task(
        self, task: str, source: Tensor, prompt: Prompt | None, num_steps: int | None, text_guidance: float | None,
        image_guidance: float | None, seed: int, callback: StepCallback | None, mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Shared by the three tasks with a source: its latent stands to the right of z.

        With a ``mask`` everything outside it stays, and inpaint does not see what lies in it.
        """
        batch, _, height, width = source.shape
        size = self._size(height, width)
        mask = None if mask is None else checked_mask(mask, source)
        shown = source if mask is None or task != "inpaint" else torch.where(mask > 0, 0.5, source)
        encoded = self.vae.normalize(self.vae.encode(shown).mean)
        with_text = self._empty(task, batch) if prompt is None else self._encode(prompt, task, batch)
        self._refuse_guidance(text_guidance, image_guidance)
        sampler = self.spec.sampler
        text_scale = sampler.text_guidance if text_guidance is None else text_guidance
        image_scale = sampler.image_guidance if image_guidance is None else image_guidance
        if isinstance(prompt, Tensor) or self.tokenizer is None or sampler.guidance_distilled:
            text_scale = image_scale = 1.0  # no empty prompt to guide against, or guidance is in the weights
        full = self._branch(with_text, encoded)
        if text_scale == image_scale == 1.0:
            velocity = full
        else:
            without_text = self._empty(task, batch)
            source_only = self._branch(without_text, encoded)
            nothing = self._branch(without_text, torch.zeros_like(encoded))

            def velocity(z: Tensor, t: float) -> Tensor:
                branches = (full(z, t), source_only(z, t), nothing(z, t))
                return guided_edit(*branches, text_scale, image_scale)

        noise = self._noise(size, batch, seed)
        known = encoded if shown is source else self.vae.normalize(self.vae.encode(source).mean)
        hole = None if mask is None else latent_mask(mask, self.vae.spec.downsample)
        after = after_step(known, noise, hole, sampler.preserve_distances if task == "edit" else None)
        image = self._decode(integrate(velocity, noise, self.grid(num_steps), callback, after))
        return image if mask is None else torch.where(mask > 0, image, source)

    def _guided_velocity(
        self, conditional: Conditioning, empty: Conditioning | None, scale: float
    ) -> Callable[[Tensor, float], Tensor]:
        full = self._branch(conditional, None)
        if empty is None:
            return full
        unconditional = self._branch(empty, None)
        return lambda z, t: guided(full(z, t), unconditional(z, t), scale)

    def _branch(self, text: Conditioning, source: Tensor | None) -> Callable[[Tensor, float], Tensor]:
        """One guidance branch with a plan state of its own."""
        batch, device = text.text.shape[0], text.text.device
        plan = self.planner.empty(batch, device, text.text.dtype)
        has_plan = torch.zeros(batch, device=device)

        def velocity(z: Tensor, t: float) -> Tensor:
            nonlocal plan, has_plan
            times = batch_time(t, batch, z.device)
            result, plan = self.denoiser(z, times, text.text, text.mask, text.pooled, plan, has_plan, source)
            has_plan = torch.ones_like(has_plan)
            return result  # type: ignore[no-any-return]

        return velocity

    def _encode(self, prompt: Prompt, task: str, batch: int | None = None) -> Conditioning:
        if isinstance(prompt, Tensor):
            ids, mask = prompt, (prompt != PAD_ID).float()
        else:
            texts = [prompt] * (batch or 1) if isinstance(prompt, str) else list(prompt)
            length = self.spec.text_encoder.max_length
            encoded = [self._tokenizer().encode(text, task, length) for text in texts]
            ids = torch.from_numpy(np.stack([item.ids for item in encoded]))
            mask = torch.from_numpy(np.stack([item.mask for item in encoded]))
        device = next(self.parameters()).device
        ids, mask = ids.to(device), mask.to(device)
        text, pooled = self.text_encoder.encode(ids, mask)
        return Conditioning(text, mask, pooled)

    def _empty(self, task: str, batch: int, like: Conditioning | None = None) -> Conditioning:
        length = self.spec.text_encoder.max_length if like is None else like.text.shape[1]
        item = self._tokenizer().encode_empty(task, length)
        device = next(self.parameters()).device
        mask = torch.from_numpy(item.mask)[None].to(device)
        text, pooled = self.text_encoder.encode(torch.from_numpy(item.ids)[None].to(device), mask)
        return Conditioning(text.expand(batch, -1, -1), mask.expand(batch, -1), pooled.expand(batch, -1))

    def _tokenizer(self) -> PromptTokenizer:
        if self.tokenizer is None:
            raise PromptError(
                "this pipeline has no tokenizer; pass token ids (B, L), or load a checkpoint with one"
            )
        return self.tokenizer

    def _guidance(self, prompt: Prompt, guidance: float | None) -> float:
        self._refuse_guidance(guidance)
        if guidance is not None:
            return guidance
        if isinstance(prompt, Tensor) or self.spec.sampler.guidance_distilled:
            return 1.0
        return self.spec.sampler.text_guidance

    def _refuse_guidance(self, *scales: float | None) -> None:
        """A distilled model draws one branch: another scale than 1 would guide it twice."""
        for scale in scales:
            if self.spec.sampler.guidance_distilled and scale not in (None, 1.0):
                raise SpecError(
                    f"guidance is {scale:g}; it is in the weights of this distilled model, leave it out"
                )

    def grid(self, num_steps: int | None) -> tuple[float, ...]:
        """The times of a drawing in ``num_steps`` steps; None is the model's own grid."""
        sampler = self.spec.sampler
        if num_steps is None or num_steps == len(sampler.timesteps) - 1:
            return sampler.timesteps
        if sampler.guidance_distilled:
            raise SpecError(
                f"this model was distilled to {len(sampler.timesteps) - 1} steps, got {num_steps}"
            )
        if num_steps < 1:
            raise SpecError(f"num_steps is {num_steps}; allowed: 1 or more")
        return uniform_grid(num_steps)

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        native = self.spec.native_size
        return check_size(height or native[0], width or native[1], self.vae.spec.downsample)

    def _noise(self, size: tuple[int, int], batch: int, seed: int) -> Tensor:
        factor = self.vae.spec.downsample
        shape = (self.vae.spec.latent_channels, size[0] // factor, size[1] // factor)
        noise = np.stack([standard_normal(seed + index, shape) for index in range(batch)])
        return torch.from_numpy(noise).to(next(self.parameters()).device)

    def _decode(self, z: Tensor) -> Tensor:
        return self.vae.decode(self.vae.denormalize(z)).clamp(0.0, 1.0)


def checked_mask(mask: Tensor, source: Tensor) -> Tensor:
    """``mask`` (B or 1, 1, H, W) as zeros and ones in the type of ``source`` (B, 3, H, W); SpecError when it does not fit."""
    batch, _, height, width = source.shape
    if mask.shape not in ((batch, 1, height, width), (1, 1, height, width)):
        raise SpecError(
            f"the mask is {tuple(mask.shape)}; it must be ({batch}, 1, {height}, {width}), as the source"
        )
    mask = (mask > 0.5).to(source)
    if not bool(mask.any()):
        raise SpecError("the mask is all zero; mark the pixels to draw with 1")
    return mask


def _describe(
    vae: MicroForgeVAE, backbone: MicroForgeBackbone, text_encoder: TextEncoder, planner: RecurrentLatentPlanner
) -> ModelSpec:  # fmt: skip
    """The ModelSpec of modules that were built one by one, as in the Quick Start."""
    text_spec = getattr(text_encoder, "spec", None)
    if not isinstance(text_spec, TextEncoderSpec):
        raise SpecError("pass spec=... with a text encoder that has no TextEncoderSpec as its spec")
    return ModelSpec("custom", vae.spec, backbone.spec, planner.spec, text_spec)
