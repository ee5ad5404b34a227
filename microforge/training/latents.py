"""Latents of the training scenes, encoded once: (S, C, h, w) beside their captions' token ids."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from microforge.data.captions import caption
from microforge.data.renderer import render
from microforge.data.scenes import sample_scene
from microforge.tokenizer import PromptTokenizer
from microforge.training.state import step_rng
from microforge.vae import MicroForgeVAE

SHARD = 1024
#: Keeps the latent cache's random draws apart from those of training steps.
CACHE_STREAM = 7_000_000


@dataclass(frozen=True)
class LatentCache:
    """Normalised latents (S, C, h, w) float16 and caption ids (S, captions, L) int16."""

    latents: Tensor
    captions: Tensor


def load_or_build(
    path: Path, vae: MicroForgeVAE, tokenizer: PromptTokenizer, scenes: int,
    captions_per_scene: int, size: tuple[int, int], max_length: int, seed: int, device: str, console: Console,
) -> LatentCache:  # fmt: skip
    """The cache at ``path`` when it was made with the same encoder and settings, else a new one."""
    key = f"{encoder_sha256(vae)} {scenes} {captions_per_scene} {size} {max_length} {seed}"
    found = _read(path, key)
    if found is not None:
        return found
    latents, captions = [], []
    for shard in track(range(-(-scenes // SHARD)), "encoding scenes", console=console):
        count = min(SHARD, scenes - shard * SHARD)
        rng = step_rng(seed, CACHE_STREAM + shard)
        drawn = [sample_scene(rng) for _ in range(count)]
        for first in range(0, count, 64):
            image = render(drawn[first : first + 64], size[0], size[1], device=device)
            with torch.no_grad():
                latents.append(vae.normalize(vae.encode(image).mean).half().cpu())
        for scene in drawn:
            texts = [caption(scene, rng) for _ in range(captions_per_scene)]
            captions.append(np.stack([tokenizer.encode(text, "generate", max_length).ids for text in texts]))
    cache = LatentCache(torch.cat(latents), torch.from_numpy(np.stack(captions).astype(np.int16)))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({"latents": cache.latents, "captions": cache.captions}, temporary, {"key": key})
    os.replace(temporary, path)
    return cache


def encoder_sha256(vae: MicroForgeVAE) -> str:
    """Identifies the latents that ``vae`` makes: its encoder's weights and the statistics it normalises with."""
    digest = hashlib.sha256(repr((vae.spec.mean, vae.spec.std)).encode())
    for name, value in sorted(vae.encoder.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, key: str) -> LatentCache | None:
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
    except safetensors.SafetensorError:
        return None
    tensors = load_file(path)
    return LatentCache(tensors["latents"], tensors["captions"])
