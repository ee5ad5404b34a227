"""Stage 1: the autoencoder, trained on images of any source (SPEC sections 4 and 11).

Letters: B images, C h w latent channels, height and width, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from microforge.checkpoint import Checkpoint, write_checkpoint
from microforge.data.image_source import ImageSource
from microforge.data.pixels import from_uint8, to_uint8
from microforge.data.world.image_source import SceneSource
from microforge.spec import ModelSpec
from microforge.tokenizer import PromptTokenizer
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.loop import StageDefaults
from microforge.training.engine.plots import grid
from microforge.training.engine.prefetch import prefetched
from microforge.training.engine.state import step_generator
from microforge.training.loop_options import LoopSettings
from microforge.training.losses.discriminator import (
    PatchDiscriminator,
    discriminator_terms,
    generator_loss,
)
from microforge.training.losses.perceptual import PerceptualHook, RandomFeatures, load_lpips
from microforge.training.losses.terms import fft_l1, gradient_l1, mean_psnr, pooled_l1
from microforge.training.settings import VAESettings
from microforge.training.stages.autoencoder_weights import load_autoencoder
from microforge.vae import MicroForgeVAE

#: Images that the latents' mean and standard deviation are measured on.
STATISTICS_IMAGES = 512
#: Fraction of the adversarial phase over which the generator's term rises to its weight.
RAMP = 0.2


class VAEStage(StageDefaults):
    """Trains ``MicroForgeVAE`` with L1, gradient L1, pooled L1, a small KL, and the optional terms of the settings.

    The PatchGAN is active from ``settings.adversarial_start`` of the steps on. The weight of its term rises over the first
    ``RAMP`` of that phase, while the discriminator learns.
    """

    def __init__(
        self,
        spec: ModelSpec,
        settings: VAESettings,
        loop: LoopSettings,
        size: tuple[int, int],
        tokenizer: PromptTokenizer,
        finished: Checkpoint | None = None,
        perceptual_hook: PerceptualHook | None = None,
        source: ImageSource | None = None,
    ) -> None:
        """Build the network and its losses.

        Args:
            spec: Configuration of the model.
            settings: Settings of the stage.
            loop: How the run is executed.
            size: Height and width of the images in pixels.
            tokenizer: Written into the checkpoint; the next stages use it.
            finished: Train only the decoder of this checkpoint; the latents stay unchanged.
            perceptual_hook: Used with the weight ``settings.lpips``; the ``lpips`` package by default.
            source: Images; the procedural world by default.

        Raises:
            MissingExtraError, CheckpointError: when ``settings.lpips`` needs a package or weights that are missing.
        """
        torch.manual_seed(loop.seed)
        if settings.alpha:
            spec = replace(spec, vae=replace(spec.vae, alpha=True))
        self.network: MicroForgeVAE = MicroForgeVAE(spec.vae).to(loop.device)
        if loop.cuda:  # the memory layout of tensor cores
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.decoder_only = finished is not None
        if finished is not None:
            load_autoencoder(finished, self.network)
            self.network.encoder.requires_grad_(False)
        self.network.encoder.checkpoint_blocks = loop.checkpoint_blocks
        self.network.decoder.checkpoint_blocks = loop.checkpoint_blocks
        self.spec, self.settings, self.loop, self.size, self.tokenizer = spec, settings, loop, size, tokenizer
        self.source: ImageSource = SceneSource() if source is None else source
        self.data_sources = (self.source,)
        self.samples_per_step = settings.batch  # of all pieces together
        side = settings.crop
        self.crop = None if side is None or min(size) <= side else (side, side)
        prepare = partial(_pixels, self.source, loop.seed, settings.batch, size, self.crop, spec.vae.alpha)
        self.images = prefetched(prepare, self.source, loop)
        self.random_features = RandomFeatures().to(loop.device) if settings.perceptual > 0 else None
        if settings.lpips > 0 and perceptual_hook is None:
            perceptual_hook = load_lpips(loop.device)
        self.perceptual_hook = perceptual_hook if settings.lpips > 0 else None
        width = min(max(spec.vae.channels[0], 32), 64)  # a capacity that suits the decoder
        self.discriminator = PatchDiscriminator(width).to(loop.device) if settings.adversarial > 0 else None
        self.discriminator_optimizer = settings.discriminator_optimizer
        self.adversarial_from = round(settings.adversarial_start * settings.steps)
        #: Outputs and images of this step, until the discriminator has been updated.
        self._outputs: dict[BatchShard, tuple[Tensor, Tensor]] = {}

    def loss(self, step: int, shard: BatchShard = WHOLE) -> Mapping[str, Tensor]:
        """Terms of this piece of step ``step``; terms with weight 0 are left out.

        With a discriminator, ``score`` is the loss without the adversarial term, which does not compare between steps.
        """
        batch, noise = self._batch(step, shard)
        image = batch[:, :3]
        terms: dict[str, Tensor] = {}
        if self.decoder_only:
            latent = self._noisy_latents(image, noise)
            decoded = self.network.decoder(latent).float()
        else:
            posterior = self.network.encode(image)
            decoded = self.network.decoder(posterior.sample(noise)).float()
            terms["kl"] = posterior.kl()
        output = decoded[:, :3]
        if self.spec.vae.alpha:
            terms["alpha_weight"] = (decoded[:, 3:] - batch[:, 3:]).abs().mean()
        terms |= self._reconstruction(output, image)
        weights = self._weights(step)
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        terms["psnr"] = mean_psnr(output, image)
        if self.discriminator is not None:
            terms["score"] = loss.detach()
        if self.discriminator is not None and weights["adversarial"] > 0:
            self._outputs[shard] = output.detach(), image
            terms["adversarial"] = generator_loss(self.discriminator, output)
            loss = loss + weights["adversarial"] * terms["adversarial"]
        return {"loss": loss, **terms}

    def discriminator_loss(self, step: int, shard: BatchShard = WHOLE) -> Mapping[str, Tensor]:
        """Terms of the discriminator on the output of ``loss`` for the same piece; {} before the adversarial phase."""
        if self.discriminator is None or self._weights(step)["adversarial"] == 0:
            return {}
        output, image = self._outputs.pop(shard)
        return discriminator_terms(self.discriminator, image, output)

    def _batch(self, step: int, shard: BatchShard) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), with alpha (B, 4, H, W), and latent noise (B, C, h, w) of this piece of the step."""
        device, total = self.loop.device, self.settings.batch
        rows = shard.rows(total)
        image = from_uint8(self.images(step, shard).to(device, non_blocking=True))
        sides = (side // self.network.spec.downsample for side in image.shape[2:])
        generator = step_generator(self.loop.seed, step, device)
        noise = torch.randn(total, self.spec.latent_channels, *sides, generator=generator, device=device)
        return image, noise[rows]

    @torch.no_grad()
    def _noisy_latents(self, image: Tensor, noise: Tensor) -> Tensor:
        """Slightly noisy latents, as a sampler produces them: a decoder-only run learns to decode these cleanly."""
        latent = self.network.encode(image).mean
        return latent + self.settings.decoder_noise * self.network.std * noise

    def _reconstruction(self, output: Tensor, image: Tensor) -> dict[str, Tensor]:
        settings = self.settings
        terms = {
            "l1": (output - image).abs().mean(),
            "gradient": gradient_l1(output, image),
            "pooled": pooled_l1(output, image, settings.pool_sizes),
        }
        if settings.fft > 0:
            terms["fft"] = fft_l1(output, image)
        if self.random_features is not None:
            terms["perceptual"] = self.random_features(output, image).mean()
        if self.perceptual_hook is not None:
            terms["lpips"] = self.perceptual_hook(output, image).mean()
        return terms

    def _weights(self, step: int) -> dict[str, float]:
        """Weight of every term; the adversarial one is 0 before its phase and then rises to its setting."""
        settings = self.settings
        ramp = RAMP * (settings.steps - self.adversarial_from)
        risen = min(max((step + 1 - self.adversarial_from) / max(ramp, 1.0), 0.0), 1.0)
        names = ("gradient", "pooled", "kl", "fft", "perceptual", "lpips", "alpha_weight")
        weights = {name: getattr(settings, name) for name in names}
        return {"l1": 1.0, **weights, "adversarial": settings.adversarial * risen}

    @torch.no_grad()
    def sheet(self, ema: nn.Module) -> Tensor:
        """Up to eight images, unseen ones where the source has enough, above their reconstructions, and alpha as grey."""
        assert isinstance(ema, MicroForgeVAE)
        image = self.source.sheet(8, self.size, self.loop.device)
        decoded = ema.decoder(ema.encode(image).mean).clamp(0, 1)
        alpha = [decoded[:, 3:].expand(-1, 3, -1, -1)] if ema.spec.alpha else []
        return grid(torch.cat([image, decoded[:, :3], *alpha]), len(image))

    def write(self, folder: Path, ema: nn.Module) -> None:
        """Write a checkpoint that holds the VAE and the tokenizer."""
        assert isinstance(ema, MicroForgeVAE)
        mean, std = self.spec.vae.mean, self.spec.vae.std
        if not self.decoder_only:
            mean, std = latent_statistics(ema, self.source, self.size, self.loop.device)
        vae = replace(self.spec.vae, latent_mean=mean, latent_std=std)
        spec = replace(self.spec, vae=vae, native_size=self.size)
        write_checkpoint(folder, spec, {"vae": ema}, self.tokenizer, ("vae",))


def _pixels(
    source: ImageSource,
    seed: int,
    total: int,
    size: tuple[int, int],
    crop: tuple[int, int] | None,
    alpha: bool,
    device: str,
    step: int,
    shard: BatchShard,
) -> Tensor:
    """Images of this piece of a step as uint8 (B, 3, H, W); (B, 4, H, W) with alpha."""
    make = source.images_with_alpha if alpha else source.images
    return to_uint8(make(seed, step, total, size, device, crop, shard.rows(total)))


@torch.no_grad()
def latent_statistics(
    vae: MicroForgeVAE,
    source: ImageSource,
    size: tuple[int, int],
    device: str,
    images: int = STATISTICS_IMAGES,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of raw latents, over ``source.statistics``."""
    latents = torch.cat([vae.encode(batch).mean for batch in source.statistics(images, size, device)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return tuple(round(v, 6) for v in mean.tolist()), tuple(max(round(v, 6), 1e-4) for v in std.tolist())
