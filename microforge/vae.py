"""Deep-compression VAE: 32 times smaller per side with the default stem (DC-AE, arXiv 2410.10733).

    image (B, 3, H, W) in [0, 1] -> encode -> Posterior over (B, C, H/32, W/32) -> decode -> image

Two choices come from measurements (SPEC section 11): the norm is the RMS over channels at each pixel, so
that nothing depends on the size of the image crop, and the log-variance head is initialised to -8.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from microforge.errors import SpecError
from microforge.spec import VAESpec, check_size, preset

INITIAL_LOG_VARIANCE = -8.0


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian over latents; both fields (B, C, h, w)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """A sample of the posterior, from standard normal ``noise`` (B, C, h, w)."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl(self) -> Tensor:
        """KL divergence to the standard normal, averaged over all latent numbers; a scalar."""
        log_variance = self.log_variance.float()
        return 0.5 * (self.mean.float().square() + log_variance.exp() - 1.0 - log_variance).mean()


class PixelNorm(nn.Module):
    """RMS norm over the channels of each pixel, with a gain per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6) * self.gain


class ResBlock(nn.Module):
    """Pre-norm residual block of two 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = PixelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        result: Tensor = x + self.conv2(F.silu(self.conv1(self.norm(x))))
        return result


def group_mean(x: Tensor, channels: int) -> Tensor:
    """Average groups of channels of ``x`` (B, C, H, W) down to ``channels``: a shortcut without parameters."""
    batch, _, height, width = x.shape
    return x.reshape(batch, channels, -1, height, width).mean(2)


def repeat_channels(x: Tensor, channels: int) -> Tensor:
    """Repeat each channel of ``x`` (B, C, H, W) up to ``channels``: the shortcut of the decoder."""
    batch, inner, height, width = x.shape
    return (
        x.unsqueeze(2)
        .expand(batch, inner, channels // inner, height, width)
        .reshape(batch, channels, height, width)
    )


class Downsample(nn.Module):
    """Halve both sides: convolution to a quarter of the channels, space to depth, plus the mean shortcut."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.outer = outer
        self.conv = nn.Conv2d(inner, outer // 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inner, H, W) to (B, outer, H / 2, W / 2)."""
        return F.pixel_unshuffle(self.conv(x), 2) + group_mean(F.pixel_unshuffle(x, 2), self.outer)


class Upsample(nn.Module):
    """Double both sides: convolution to four times the channels, depth to space, plus the repeat shortcut."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.outer = outer
        self.conv = nn.Conv2d(inner, outer * 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inner, H, W) to (B, outer, 2 H, 2 W)."""
        return F.pixel_shuffle(self.conv(x) + repeat_channels(x, self.outer * 4), 2)


def _blocks(channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(ResBlock(channels) for _ in range(depth)))


def _run(blocks: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """Apply ``blocks`` in order; with ``recompute``, the backward pass recomputes their activations."""
    assert isinstance(blocks, nn.Sequential)
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, use_reentrant=False)
        else:
            x = block(x)
    return x


class Encoder(nn.Module):
    """Image to the parameters of the posterior: stem, residual blocks at four resolutions, two heads."""

    checkpoint_blocks = False  # gradient checkpointing, switched on by training

    def __init__(self, spec: VAESpec) -> None:
        super().__init__()
        self.stem_factor, self.latent_channels = spec.stem_factor, spec.latent_channels
        widths = spec.channels
        self.stem = nn.Conv2d(3 * spec.stem_factor**2, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(_blocks(w, d) for w, d in zip(widths, spec.encoder_depths, strict=True))
        self.downs = nn.ModuleList(Downsample(a, b) for a, b in itertools.pairwise(widths))
        self.mid = _blocks(widths[-1], spec.mid_depth)
        self.norm = PixelNorm(widths[-1])
        self.mean = nn.Conv2d(widths[-1], spec.latent_channels, 3, padding=1)
        self.log_variance = nn.Conv2d(widths[-1], spec.latent_channels, 3, padding=1)
        nn.init.zeros_(self.log_variance.weight)
        assert self.log_variance.bias is not None
        nn.init.constant_(self.log_variance.bias, INITIAL_LOG_VARIANCE)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [0, 1] to mean and log-variance, (B, C, h, w) each; h = H / (8 * stem factor)."""
        x = self.stem(F.pixel_unshuffle(image * 2.0 - 1.0, self.stem_factor))  # (B, width 0, 8 h, 8 w)
        for level, stage in enumerate(self.stages):
            x = _run(stage, x, self.checkpoint_blocks)
            if level < len(self.downs):
                x = self.downs[level](x)  # (B, width level + 1, half the sides)
        x = self.norm(_run(self.mid, x, self.checkpoint_blocks))  # (B, width 3, h, w)
        return self.mean(x) + group_mean(x, self.latent_channels), self.log_variance(x).clamp(-20.0, 2.0)


class Decoder(nn.Module):
    """Latent to image: residual blocks at four resolutions, then depth to space by the stem factor."""

    checkpoint_blocks = False  # gradient checkpointing, switched on by training

    def __init__(self, spec: VAESpec) -> None:
        super().__init__()
        self.stem_factor, self.width = spec.stem_factor, spec.channels[-1]
        widths = spec.channels[::-1]
        self.head = nn.Conv2d(spec.latent_channels, widths[0], 3, padding=1)
        self.mid = _blocks(widths[0], spec.mid_depth)
        depths = spec.decoder_depths[::-1]
        self.stages = nn.ModuleList(_blocks(w, d) for w, d in zip(widths, depths, strict=True))
        self.ups = nn.ModuleList(Upsample(a, b) for a, b in itertools.pairwise(widths))
        self.norm = PixelNorm(widths[-1])
        self.out = nn.Conv2d(widths[-1], (4 if spec.alpha else 3) * spec.stem_factor**2, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """Raw latents (B, C, h, w) to images (B, 3, H, W), about [0, 1] but not clamped; (B, 4, H, W) with alpha."""
        x = self.head(latent) + repeat_channels(latent, self.width)  # (B, width 3, h, w)
        x = _run(self.mid, x, self.checkpoint_blocks)
        for level, stage in enumerate(self.stages):
            x = _run(stage, x, self.checkpoint_blocks)
            if level < len(self.ups):
                x = self.ups[level](x)  # (B, next width, twice the sides)
        x = self.out(F.silu(self.norm(x)))  # (B, 3 or 4 * stem factor^2, 8 h, 8 w)
        return F.pixel_shuffle(x, self.stem_factor) * 0.5 + 0.5


class MicroForgeVAE(nn.Module):
    """The variational autoencoder.

    ``encode`` and ``decode`` work on raw latents. The flow works on ``normalize(latent)``, with the per-channel mean
    and standard deviation that training measured and stored in the configuration.

    Args:
        config: a preset name, or a ``VAESpec``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: str | VAESpec = "tiny") -> None:
        super().__init__()
        self.spec = preset(config).vae if isinstance(config, str) else config
        self.encoder = Encoder(self.spec)
        self.decoder = Decoder(self.spec)
        self.register_buffer("mean", torch.tensor(self.spec.mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.spec.std).reshape(1, -1, 1, 1), persistent=False)

    def encode(self, image: Tensor) -> Posterior:
        """The posterior over raw latents of images (B, 3, H, W) in [0, 1].

        Raises:
            SpecError: when H or W is not a multiple of the downsampling factor.
        """
        check_size(image.shape[-2], image.shape[-1], self.spec.downsample)
        return Posterior(*self.encoder(image))

    def decode(self, latent: Tensor) -> Tensor:
        """Images (B, 3, H, W), about [0, 1] but not clamped, of raw latents (B, C, h, w)."""
        image: Tensor = self.decoder(latent)
        return image[:, :3] if self.spec.alpha else image

    def decode_with_alpha(self, latent: Tensor) -> Tensor:
        """Images and alpha (B, 4, H, W), about [0, 1] but not clamped, of raw latents (B, C, h, w).

        Raises:
            SpecError: for a decoder without alpha.
        """
        if not self.spec.alpha:
            raise SpecError("this autoencoder gives no alpha; train its decoder with --set alpha=true")
        return self.decoder(latent)  # type: ignore[no-any-return]

    def normalize(self, latent: Tensor) -> Tensor:
        """Normalised latents z of raw ones, (B, C, h, w)."""
        return (latent - self.mean) / self.std

    def denormalize(self, z: Tensor) -> Tensor:
        """Raw latents of normalised ones, (B, C, h, w)."""
        return z * self.std + self.mean

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Posterior]:
        """Reconstruct images (B, 3, H, W) through posterior samples from ``noise`` (B, C, h, w)."""
        posterior = self.encode(image)
        return self.decode(posterior.sample(noise)), posterior
