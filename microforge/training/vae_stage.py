"""Stage 1: the VAE on fresh renders of the procedural world (SPEC section 4; recipe of section 11)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from microforge.checkpoint import Checkpoint, write_checkpoint
from microforge.data.renderer import render
from microforge.data.scenes import Scene, sample_scene
from microforge.spec import ModelSpec
from microforge.tokenizer import PromptTokenizer
from microforge.training.losses import gradient_l1, pooled_l1
from microforge.training.report import grid
from microforge.training.settings import LoopSettings, VAESettings
from microforge.training.state import step_generator, step_rng
from microforge.vae import MicroForgeVAE

#: Seeds of data that training never draws: samples and statistics.
SHEET_SEED, STATISTICS_SEED = 1_000_003, 1_000_033


def render_batch(
    seed: int, step: int, count: int, size: tuple[int, int], device: str, crop: tuple[int, int] | None = None
) -> Tensor:
    """``count`` fresh scenes of step ``step`` as images (count, 3, H, W), or as windows of ``crop`` around an object."""
    rng = step_rng(seed, step)
    scenes = [sample_scene(rng) for _ in range(count)]
    images = render(scenes, size[0], size[1], device=device)
    if crop is None:
        return images
    return torch.stack([_window(image, scene, crop, rng) for image, scene in zip(images, scenes, strict=True)])


def _window(image: Tensor, scene: Scene, crop: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """A window of ``image`` that holds the centre of one of the scene's objects: flat crops teach little."""
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    corner = []
    for centre, side, window in zip((item.y, item.x), image.shape[1:], crop, strict=True):
        corner.append(int(np.clip(centre * side - rng.uniform(0.0, window), 0, side - window)))
    top, left = corner
    return image[:, top : top + crop[0], left : left + crop[1]]


class VAEStage:
    """Trains ``MicroForgeVAE``: L1 + gradient L1 + pooled L1 + a small KL."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: VAESettings,
        loop: LoopSettings,
        size: tuple[int, int],
        tokenizer: PromptTokenizer,
        finished: Checkpoint | None = None,
    ) -> None:
        """``finished``: fine-tune the decoder of this checkpoint and leave its latents as they are."""
        torch.manual_seed(loop.seed)
        self.network: MicroForgeVAE = MicroForgeVAE(spec.vae).to(loop.device)
        self.decoder_only = finished is not None
        if finished is not None:
            finished.load_into("vae", self.network)
            self.network.encoder.requires_grad_(False)
        self.spec, self.settings, self.loop, self.size, self.tokenizer = spec, settings, loop, size, tokenizer
        self.samples_per_step = settings.batch
        side = settings.crop
        self.crop = None if side is None or min(size) <= side else (side, side)

    def loss(self, step: int) -> Mapping[str, Tensor]:
        settings, device = self.settings, self.loop.device
        image = render_batch(self.loop.seed, step, settings.batch, self.size, device, self.crop)
        cells = (side // self.network.spec.downsample for side in image.shape[2:])
        generator = step_generator(self.loop.seed, step, device)
        noise = torch.randn(
            settings.batch, self.spec.latent_channels, *cells, generator=generator, device=device
        )
        if self.decoder_only:
            return self._decoder_loss(image, noise)
        output, posterior = self.network(image, noise)
        kl = posterior.kl()
        terms = self._terms(output.float(), image)
        return {**terms, "loss": terms["loss"] + settings.kl * kl, "kl": kl}

    def _decoder_loss(self, image: Tensor, noise: Tensor) -> Mapping[str, Tensor]:
        """Latents a little off, as a sampler's are: the decoder learns to draw clean shapes from them."""
        with torch.no_grad():
            latent = self.network.encode(image).mean
            latent = latent + self.settings.decoder_noise * self.network.std * noise
        return self._terms(self.network.decode(latent).float(), image)

    def _terms(self, output: Tensor, image: Tensor) -> dict[str, Tensor]:
        settings = self.settings
        l1 = (output - image).abs().mean()
        gradient = gradient_l1(output, image)
        pooled = pooled_l1(output, image, settings.pool_sizes)
        loss = l1 + settings.gradient * gradient + settings.pooled * pooled
        with torch.no_grad():
            psnr = -10.0 * torch.log10((output.clamp(0, 1) - image).square().mean((1, 2, 3)) + 1e-10).mean()
        return {"loss": loss, "l1": l1, "gradient": gradient, "pooled": pooled, "psnr": psnr}

    @torch.no_grad()
    def sheet(self, ema: nn.Module) -> Tensor:
        """Eight unseen scenes above their reconstructions."""
        assert isinstance(ema, MicroForgeVAE)
        image = render_batch(SHEET_SEED, 0, 8, self.size, self.loop.device)
        return grid(torch.cat([image, ema.decode(ema.encode(image).mean).clamp(0, 1)]), 8)

    def write(self, folder: Path, ema: nn.Module) -> None:
        assert isinstance(ema, MicroForgeVAE)
        mean, std = self.spec.vae.mean, self.spec.vae.std
        if not self.decoder_only:
            mean, std = latent_statistics(ema, self.size, self.loop.device)
        spec = replace(
            self.spec, vae=replace(self.spec.vae, latent_mean=mean, latent_std=std), native_size=self.size
        )
        write_checkpoint(folder, spec, {"vae": ema}, self.tokenizer, ("vae",))


@torch.no_grad()
def latent_statistics(
    vae: MicroForgeVAE, size: tuple[int, int], device: str, scenes: int = 512
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of raw latents over unseen scenes."""
    latents = torch.cat([
        vae.encode(render_batch(STATISTICS_SEED, part, 64, size, device)).mean for part in range(max(1, scenes // 64))
    ])  # fmt: skip
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return tuple(round(v, 6) for v in mean.tolist()), tuple(max(round(v, 6), 1e-4) for v in std.tolist())
