"""Stage 1: the VAE on images of any source (SPEC section 4; recipe of section 11)."""

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
from microforge.training.engine.batch_shard import WHOLE, Shard
from microforge.training.engine.plots import grid
from microforge.training.engine.prefetch import made_ahead
from microforge.training.engine.state import step_generator
from microforge.training.losses.discriminator import (
    PatchDiscriminator,
    adversary_terms,
    generator_loss,
)
from microforge.training.losses.perceptual import PerceptualHook, RandomFeatures, load_lpips
from microforge.training.losses.terms import fft_l1, gradient_l1, mean_psnr, pooled_l1
from microforge.training.settings import LoopSettings, OptimizerSettings, VAESettings
from microforge.vae import MicroForgeVAE

#: About so many images tell the latents' mean and deviation.
STATISTICS_IMAGES = 512
#: Share of the adversarial phase over which the generator's term rises to its weight.
RAMP = 0.2


class VAEStage:
    """Trains ``MicroForgeVAE``: L1 + gradient L1 + pooled L1 + a small KL, and the terms that the settings ask for.

    The PatchGAN is on from ``settings.adversarial_start`` of the steps; its weight rises over the first
    ``RAMP`` of that phase, while it learns to tell the images apart.
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
        """Build the network and what judges it.

        Args:
            finished: fine-tune the decoder of this checkpoint and leave its latents as they are.
            perceptual_hook: used with weight ``settings.lpips``; the user's ``lpips`` package by default.
            source: of the images; the procedural world by default.

        Raises:
            MissingExtraError, CheckpointError: when ``settings.lpips`` asks for a package or weights that
                are not here.
        """
        torch.manual_seed(loop.seed)
        self.network: MicroForgeVAE = MicroForgeVAE(spec.vae).to(loop.device)
        if loop.cuda:  # the layout that tensor cores want
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.decoder_only = finished is not None
        if finished is not None:
            finished.load_into("vae", self.network)
            self.network.encoder.requires_grad_(False)
        self.network.encoder.checkpoint_blocks = loop.checkpoint_blocks
        self.network.decoder.checkpoint_blocks = loop.checkpoint_blocks
        self.spec, self.settings, self.loop, self.size, self.tokenizer = spec, settings, loop, size, tokenizer
        self.source = SceneSource() if source is None else source
        self.samples_per_step = settings.batch  # of all pieces together
        side = settings.crop
        self.crop = None if side is None or min(size) <= side else (side, side)
        make = partial(_pixels, self.source, loop.seed, settings.batch, size, self.crop)
        self.images = made_ahead(make, self.source, loop)
        self.random_features = RandomFeatures().to(loop.device) if settings.perceptual > 0 else None
        if settings.lpips > 0 and perceptual_hook is None:
            perceptual_hook = load_lpips(loop.device)
        self.perceptual_hook = perceptual_hook if settings.lpips > 0 else None
        width = min(max(spec.vae.channels[0], 32), 64)  # of a strength that fits the decoder it judges
        self._adversary = PatchDiscriminator(width).to(loop.device) if settings.adversarial > 0 else None
        self.adversarial_from = round(settings.adversarial_start * settings.steps)
        #: Outputs and images of this step, until the adversary has learned from them.
        self._seen: dict[Shard, tuple[Tensor, Tensor]] = {}

    @property
    def adversary(self) -> nn.Module | None:
        """The PatchGAN, from the start of the run; None when its weight is 0."""
        return self._adversary

    @property
    def adversary_optimizer(self) -> OptimizerSettings:
        """How the loop trains the adversary."""
        return self.settings.adversary_optimizer

    def loss(self, step: int, shard: Shard = WHOLE) -> Mapping[str, Tensor]:
        """Terms of this piece of step ``step``; those with weight 0 are left out.

        With an adversary, ``score`` is the loss without its term, which would not compare between steps.
        """
        image, noise = self._batch(step, shard)
        terms: dict[str, Tensor] = {}
        if self.decoder_only:
            latent = self._latents_a_little_off(image, noise)
            output = self.network.decode(latent).float()
        else:
            output, posterior = self.network(image, noise)
            output, terms["kl"] = output.float(), posterior.kl()
        terms |= self._reconstruction(output, image)
        weights = self._weights(step)
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        terms["psnr"] = mean_psnr(output, image)
        if self._adversary is not None:
            terms["score"] = loss.detach()
        if self._adversary is not None and weights["adversarial"] > 0:
            self._seen[shard] = output.detach(), image
            terms["adversarial"] = generator_loss(self._adversary, output)
            loss = loss + weights["adversarial"] * terms["adversarial"]
        return {"loss": loss, **terms}

    def adversary_loss(self, step: int, shard: Shard = WHOLE) -> Mapping[str, Tensor]:
        """Terms of the adversary on what ``loss`` just made for the same piece; {} before its phase: no update."""
        if self._adversary is None or self._weights(step)["adversarial"] == 0:
            return {}
        output, image = self._seen.pop(shard)
        return adversary_terms(self._adversary, image, output)

    def _batch(self, step: int, shard: Shard) -> tuple[Tensor, Tensor]:
        """This piece's images (B, 3, H, W) and latent noise (B, C, h, w) of the step's whole batch."""
        device, total = self.loop.device, self.settings.batch
        rows = shard.rows(total)
        image = from_uint8(self.images(step, shard).to(device, non_blocking=True))
        cells = (side // self.network.spec.downsample for side in image.shape[2:])
        generator = step_generator(self.loop.seed, step, device)
        noise = torch.randn(total, self.spec.latent_channels, *cells, generator=generator, device=device)
        return image, noise[rows]

    @torch.no_grad()
    def _latents_a_little_off(self, image: Tensor, noise: Tensor) -> Tensor:
        """As a sampler's are: from them a decoder-only run learns to draw clean shapes."""
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
        """Of every term; the adversary's is 0 before the last phase, then rises to the settings'."""
        settings = self.settings
        ramp = RAMP * (settings.steps - self.adversarial_from)
        risen = min(max((step + 1 - self.adversarial_from) / max(ramp, 1.0), 0.0), 1.0)
        return {
            "l1": 1.0, "gradient": settings.gradient, "pooled": settings.pooled, "kl": settings.kl,
            "fft": settings.fft, "perceptual": settings.perceptual, "lpips": settings.lpips,
            "adversarial": settings.adversarial * risen,
        }  # fmt: skip

    @torch.no_grad()
    def sheet(self, ema: nn.Module) -> Tensor:
        """Up to eight images, unseen where there are enough, above their reconstructions."""
        assert isinstance(ema, MicroForgeVAE)
        image = self.source.sheet(8, self.size, self.loop.device)
        return grid(torch.cat([image, ema.decode(ema.encode(image).mean).clamp(0, 1)]), len(image))

    def write(self, folder: Path, ema: nn.Module) -> None:
        assert isinstance(ema, MicroForgeVAE)
        mean, std = self.spec.vae.mean, self.spec.vae.std
        if not self.decoder_only:
            mean, std = latent_statistics(ema, self.source, self.size, self.loop.device)
        spec = replace(
            self.spec, vae=replace(self.spec.vae, latent_mean=mean, latent_std=std), native_size=self.size
        )
        write_checkpoint(folder, spec, {"vae": ema}, self.tokenizer, ("vae",))


def _pixels(
    source: ImageSource, seed: int, total: int, size: tuple[int, int], crop: tuple[int, int] | None, device: str,
    step: int, shard: Shard,
) -> Tensor:  # fmt: skip
    """This piece's images of a step, as bytes (B, 3, H, W)."""
    return to_uint8(source.images(seed, step, total, size, device, crop, shard.rows(total)))


@torch.no_grad()
def latent_statistics(
    vae: MicroForgeVAE,
    source: ImageSource,
    size: tuple[int, int],
    device: str,
    images: int = STATISTICS_IMAGES,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of raw latents over ``source.statistics``."""
    latents = torch.cat([vae.encode(batch).mean for batch in source.statistics(images, size, device)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return tuple(round(v, 6) for v in mean.tolist()), tuple(max(round(v, 6), 1e-4) for v in std.tolist())
