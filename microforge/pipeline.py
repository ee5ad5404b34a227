"""The reference pipeline in PyTorch: text to image, edit, inpaint, super-resolve.

It is what exported bundles are compared with: fp32, no autocast, the portable noise of SPEC section 10.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microforge.backbone import MicroForgeBackbone
from microforge.checkpoint import SHIPPED_STUDENT, Checkpoint, read_checkpoint, write_checkpoint
from microforge.denoiser import Denoiser, branch_velocity, build_backbone, build_planner, describe_modules
from microforge.errors import SpecError
from microforge.io.hub import download, is_hub_name
from microforge.latent_blending import after_step, binary_mask, latent_mask
from microforge.noise import standard_normal
from microforge.planner import RecurrentLatentPlanner
from microforge.sampling import StepCallback, guided, guided_edit, integrate, uniform_grid
from microforge.spec import ModelSpec, check_proportion, check_size
from microforge.text_encoder import Conditioning, Prompt, PromptEncoder, SimpleTextEncoder, TextEncoder
from microforge.tokenizer import PromptTokenizer
from microforge.vae import MicroForgeVAE

__all__ = ["MicroForgePipeline", "SimpleTextEncoder"]

#: (z (B, C, h, w), t) -> velocity (B, C, h, w).
Velocity = Callable[[Tensor, float], Tensor]


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
        self.spec = spec or describe_modules(vae, backbone, text_encoder, planner)
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
    def from_pretrained(
        cls, checkpoint: str | Path | None = None, revision: str | None = None
    ) -> MicroForgePipeline:
        """Load a checkpoint.

        Args:
            checkpoint: its folder, or ``owner/name`` on the Hugging Face hub; None is the shipped student.
            revision: branch, tag or commit on the hub; the main branch by default.

        Raises:
            CheckpointError: when the folder is missing, damaged or incomplete.
            HubError: when the hub has no such model or cannot be reached.
            SpecError: for a revision of a folder.
        """
        if checkpoint is None:
            return cls.from_checkpoint(read_checkpoint(SHIPPED_STUDENT))
        on_hub = is_hub_name(str(checkpoint)) and not Path(checkpoint).exists()
        if revision is not None and not on_hub:
            raise SpecError(f"revision {revision!r} is for models of the hub; {checkpoint} is a folder")
        folder = download(str(checkpoint), revision) if on_hub else checkpoint
        return cls.from_checkpoint(read_checkpoint(folder))

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> MicroForgePipeline:
        """The pipeline of a checkpoint in memory.

        Raises:
            CheckpointError, SpecError: when it is incomplete, or too small for its configuration.
        """
        tokenizer = PromptTokenizer.load(checkpoint.tokenizer) if checkpoint.tokenizer else None
        check_proportion(checkpoint.spec, checkpoint.elements)
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
            folder: an older checkpoint there is replaced, other files stay.
            dtype: of the stored weights.
            base: path, from ``folder``, of a checkpoint; modules that are equal there are left out here.
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
        """Generate images for a prompt.

        Args:
            prompt: text, several texts, or token ids (B, L) with 0 for padding.
            height: in pixels, a multiple of the downsampling factor; the trained size by default.
            width: as ``height``.
            num_steps: sampling steps on a uniform grid; the model's own grid by default.
            guidance: scale of classifier-free guidance (1 is off). Text prompts use the model's own by default;
                token ids default to 1, since without a tokenizer there is no empty prompt.
            seed: of the first image; image i of a batch uses seed + i.
            callback: called after every step with its number, the count of steps and the latent.

        Returns:
            (B, 3, H, W) in [0, 1].

        Raises:
            SpecError: for a size, a step count or a guidance that the model does not allow.
            PromptError: for an empty text, or for text without a tokenizer.
        """
        return self._decode(self.latents(prompt, height, width, num_steps, guidance, seed, callback))

    @torch.no_grad()
    def latents(
        self, prompt: Prompt, height: int | None = None, width: int | None = None, steps: int | None = None,
        guidance: float | None = None, seed: int = 0, callback: StepCallback | None = None,
    ) -> Tensor:  # fmt: skip
        """The normalised latents (B, C, h, w) that ``text2img`` decodes; arguments as there."""
        size = self._size(height, width)
        encoder, scale = self._prompt_encoder(), self._guidance(prompt, guidance)
        conditional = encoder.encode(prompt, "generate")
        batch, length, _ = conditional.text.shape
        empty = encoder.empty("generate", batch, length) if scale != 1.0 else None
        velocity = self._guided_velocity(conditional, empty, scale)
        return integrate(velocity, self._noise(size, batch, seed), self.grid(steps), callback)

    @torch.no_grad()
    def edit(
        self, image: Tensor, prompt: Prompt | None, mask: Tensor | None = None, *, steps: int | None = None,
        text_guidance: float | None = None, image_guidance: float | None = None, seed: int = 0,
        callback: StepCallback | None = None,
    ) -> Tensor:  # fmt: skip
        """Change source images as an instruction says.

        Latents that come out close to the source's are preserved; ``SamplerSpec.preserve_distances`` says how close.

        Args:
            image: source images (B, 3, H, W) in [0, 1].
            prompt: the instruction, or one per image; None is the empty prompt.
            mask: (B or 1, 1, H, W), 1 where pixels may change; all others are preserved bit for bit. None: everywhere.
            steps: as ``num_steps`` in ``text2img``.
            text_guidance: scale for the prompt in dual guidance; the model's own by default.
            image_guidance: scale for the source image; the model's own by default.
            seed: as in ``text2img``.
            callback: as in ``text2img``.

        Returns:
            (B, 3, H, W) in [0, 1].

        Raises:
            SpecError: for a size, a mask, a step count or a guidance that is not allowed.
        """
        scales = (text_guidance, image_guidance)
        return self._from_source("edit", image, prompt, mask, steps, scales, seed, callback)

    @torch.no_grad()
    def inpaint(
        self, image: Tensor, mask: Tensor, prompt: Prompt | None = None, *, steps: int | None = None,
        text_guidance: float | None = None, image_guidance: float | None = None, seed: int = 0,
        callback: StepCallback | None = None,
    ) -> Tensor:  # fmt: skip
        """Fill the masked pixels of source images; all others are preserved bit for bit.

        After each step the preserved latents are blended back at the current noise level. Arguments and errors as
        in ``edit``; here the model does not see what lies under the mask.
        """
        scales = (text_guidance, image_guidance)
        return self._from_source("inpaint", image, prompt, mask, steps, scales, seed, callback)

    @torch.no_grad()
    def super_resolve(
        self, image: Tensor, factor: int = 2, prompt: Prompt | None = None, *, steps: int | None = None,
        text_guidance: float | None = None, image_guidance: float | None = None, seed: int = 0,
        callback: StepCallback | None = None,
    ) -> Tensor:  # fmt: skip
        """Enlarge source images (B, 3, h, w) by 2, 4 or 8 in one pass, conditioned on their bicubic upsamples.

        ``microforge.load().super_resolve`` also works in overlapping tiles and agrees with the source's pixels.
        Arguments and errors as in ``edit``.
        """
        if factor not in (2, 4, 8):
            raise SpecError(f"the factor of one super-resolution pass is {factor}; allowed: 2, 4, 8")
        upsampled = F.interpolate(image, scale_factor=factor, mode="bicubic", antialias=False).clamp(0, 1)
        scales = (text_guidance, image_guidance)
        return self._from_source("super-resolve", upsampled, prompt, None, steps, scales, seed, callback)

    @torch.no_grad()
    def vary(
        self, image: Tensor, prompt: Prompt | None = None, strength: float = 0.5, *, steps: int | None = None,
        guidance: float | None = None, seed: int = 0, callback: StepCallback | None = None,
    ) -> Tensor:  # fmt: skip
        """Make images that are similar to source images: sampling starts late, from their latents with noise (SDEdit).

        Arguments and errors as in ``edit``.

        Args:
            strength: share of the steps that are run, in (0, 1]; less stays nearer to the image.
        """
        batch, _, height, width = image.shape
        encoder, grid = self._prompt_encoder(), self.grid(steps)
        text = (
            encoder.empty("generate", batch) if prompt is None else encoder.encode(prompt, "generate", batch)
        )
        scale = self._guidance("", guidance)
        empty = encoder.empty("generate", batch) if scale != 1.0 else None
        count = min(max(int(strength * (len(grid) - 1) + 0.5), 1), len(grid) - 1)
        times = grid[len(grid) - 1 - count :]
        noise = self._noise(self._size(height, width), batch, seed)
        noisy = (1.0 - times[0]) * self._image_latent(image) + times[0] * noise  # (B, C, h, w)
        return self._decode(integrate(self._guided_velocity(text, empty, scale), noisy, times, callback))

    def _from_source(
        self, task: str, image: Tensor, prompt: Prompt | None, mask: Tensor | None, steps: int | None,
        scales: tuple[float | None, float | None], seed: int, callback: StepCallback | None,
    ) -> Tensor:  # fmt: skip
        """The tasks with a source image (SPEC section 6): its latent stands to the right of z."""
        batch, _, height, width = image.shape
        size = self._size(height, width)
        mask = None if mask is None else binary_mask(mask, image)
        shown = image if mask is None or task != "inpaint" else torch.where(mask > 0, 0.5, image)
        condition = self._image_latent(shown)  # (B, C, h, w)
        velocity = self._edit_velocity(task, prompt, condition, self._dual_scales(prompt, *scales))
        noise = self._noise(size, batch, seed)
        source = condition if shown is image else self._image_latent(image)
        editable = None if mask is None else latent_mask(mask, self.vae.spec.downsample)
        distances = self.spec.sampler.preserve_distances if task == "edit" else None
        after = after_step(source, noise, editable, distances)
        result = self._decode(integrate(velocity, noise, self.grid(steps), callback, after))
        return result if mask is None else torch.where(mask > 0, result, image)

    def _image_latent(self, image: Tensor) -> Tensor:
        """Normalised latent (B, C, h, w) of images (B, 3, H, W)."""
        return self.vae.normalize(self.vae.encode(image).mean)

    def _dual_scales(
        self, prompt: Prompt | None, text: float | None, image: float | None
    ) -> tuple[float, float]:
        """Text and image scale of dual guidance; 1 and 1 without an empty prompt, or for a guidance-distilled model."""
        self._refuse_guidance(text, image)
        sampler = self.spec.sampler
        if isinstance(prompt, Tensor) or self.tokenizer is None or sampler.guidance_distilled:
            return 1.0, 1.0
        return (
            sampler.text_guidance if text is None else text,
            sampler.image_guidance if image is None else image,
        )

    def _edit_velocity(
        self, task: str, prompt: Prompt | None, source: Tensor, scales: tuple[float, float]
    ) -> Velocity:
        """The velocity under dual guidance (InstructPix2Pix), with one plan state per branch."""
        encoder, batch = self._prompt_encoder(), source.shape[0]
        text = encoder.empty(task, batch) if prompt is None else encoder.encode(prompt, task, batch)
        full = self._branch(text, source)
        if scales == (1.0, 1.0):
            return full
        empty = encoder.empty(task, batch)
        source_only = self._branch(empty, source)
        unconditional = self._branch(empty, torch.zeros_like(source))
        return lambda z, t: guided_edit(full(z, t), source_only(z, t), unconditional(z, t), *scales)

    def _guided_velocity(
        self, conditional: Conditioning, empty: Conditioning | None, scale: float
    ) -> Velocity:
        """The velocity under classifier-free guidance, with one plan state per branch."""
        full = self._branch(conditional, None)
        if empty is None:
            return full
        unconditional = self._branch(empty, None)
        return lambda z, t: guided(full(z, t), unconditional(z, t), scale)

    def _branch(self, text: Conditioning, source: Tensor | None) -> Velocity:
        return branch_velocity(self.denoiser, text, source)

    def _prompt_encoder(self) -> PromptEncoder:
        length, device = self.spec.text_encoder.max_length, next(self.parameters()).device
        return PromptEncoder(self.text_encoder, self.tokenizer, length, device)

    def _guidance(self, prompt: Prompt, guidance: float | None) -> float:
        self._refuse_guidance(guidance)
        if guidance is not None:
            return guidance
        if isinstance(prompt, Tensor) or self.spec.sampler.guidance_distilled:
            return 1.0
        return self.spec.sampler.text_guidance

    def _refuse_guidance(self, *scales: float | None) -> None:
        """A guidance-distilled model has one branch: another scale than 1 would apply guidance twice."""
        for scale in scales:
            if self.spec.sampler.guidance_distilled and scale not in (None, 1.0):
                raise SpecError(
                    f"guidance is {scale:g}; it is in the weights of this guidance-distilled model, leave it out"
                )

    def grid(self, steps: int | None) -> tuple[float, ...]:
        """The times of ``steps`` sampling steps, from 1.0 to 0.0; None: the model's own grid.

        Raises:
            SpecError: for a step count that the model does not allow.
        """
        timesteps = self.spec.sampler.timesteps
        if steps is None or steps == len(timesteps) - 1:
            return timesteps
        if self.spec.sampler.guidance_distilled:
            raise SpecError(f"steps is {steps}; this model was distilled to {len(timesteps) - 1}")
        if steps < 1:
            raise SpecError(f"steps is {steps}; allowed: 1 or more")
        return uniform_grid(steps)

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
