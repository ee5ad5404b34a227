"""A frozen VAE and tokenizer that turn images and texts into what is trained on: latents and token ids.

Letters: B images or texts, C h w latent channels, height and width, H W image height and width, L text tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microforge.data.pixels import from_uint8
from microforge.tokenizer import PromptTokenizer
from microforge.vae import MicroForgeVAE


@dataclass(frozen=True)
class LatentEncoder:
    """The VAE and tokenizer of a run, the image size (height, width) in pixels, and the longest text in tokens."""

    vae: MicroForgeVAE
    tokenizer: PromptTokenizer
    size: tuple[int, int]
    max_length: int
    device: str

    def latents(self, pixels: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) in float32 of uint8 images (B, 3, H, W)."""
        return encode_bytes(self.vae, pixels, self.device)

    def ids(self, texts: Sequence[str | None], task: str) -> Tensor:
        """Token ids (B, L) int64 with the prefix of ``task``; None stands for the empty prompt."""
        return token_ids(self.tokenizer, texts, task, self.max_length)


def token_ids(tokenizer: PromptTokenizer, texts: Sequence[str | None], task: str, length: int) -> Tensor:
    """Token ids (B, L) int64 with the prefix of ``task``, padded to ``length``; None stands for the empty prompt."""
    rows = [
        tokenizer.encode_empty(task, length) if text is None else tokenizer.encode(text, task, length)
        for text in texts
    ]
    return torch.from_numpy(np.stack([row.ids for row in rows]))


@torch.no_grad()
def encode_bytes(vae: MicroForgeVAE, pixels: Tensor, device: str) -> Tensor:
    """Normalised latents (B, C, h, w) of uint8 images (B, 3, H, W), in float32 whatever precision training uses."""
    images = from_uint8(pixels.to(device, non_blocking=True))
    with torch.autocast(images.device.type, enabled=False):
        return vae.normalize(vae.encode(images).mean)


def encoder_sha256(vae: MicroForgeVAE) -> str:
    """Identifies the latents of ``vae``: the weights of its encoder and the statistics that normalise them."""
    digest = hashlib.sha256(repr((vae.spec.mean, vae.spec.std)).encode())
    for name, value in sorted(vae.encoder.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
