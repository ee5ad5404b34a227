"""Examples with a source, made and encoded once: what the edit stage draws from when new ones at every step cost too much.

A step with new examples encodes two images for each; on a CPU that takes as long as the step itself. The cache is
built in parts, each a file of its own, so that a killed build goes on where it stopped.

Letters: N examples of a task, C h w latent channels, height and width, L text tokens.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from microforge.data.edit_examples import SOURCE_TASKS, TripleSource
from microforge.data.pixels import from_uint8, to_uint8
from microforge.streams import StepStream
from microforge.tokenizer import PromptTokenizer
from microforge.training.caches.latents import encoder_sha256, metadata, save_whole
from microforge.training.settings import EditSettings, LoopSettings
from microforge.vae import MicroForgeVAE

#: Examples of a part, and those encoded at once.
PART, AT_ONCE = 512, 32
_NAMES = ("sources", "targets", "ids")


@dataclass(frozen=True)
class EncodedTriples:
    """Examples of one task: latents (N, C, h, w) float16 of sources and targets, token ids (N, L) int32."""

    sources: Tensor
    targets: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Encoding:
    """What turns examples into latents and ids: texts of at most ``length`` tokens, images of ``size`` (height, width)."""

    vae: MicroForgeVAE
    tokenizer: PromptTokenizer
    length: int
    size: tuple[int, int]
    loop: LoopSettings

    def part(self, triples: TripleSource, task: str, number: int, count: int) -> dict[str, Tensor]:
        """``count`` examples of ``task``, the same again for the same ``number`` and seed."""
        pieces = []
        for start in range(0, count, AT_ONCE):
            own = min(AT_ONCE, count - start)
            # a stream of its own, so that no call draws what another one keeps
            stream = StepStream.ENCODED_TRIPLES + (number * PART + start) // AT_ONCE
            found = triples.triples(
                task, self.loop.seed, stream, own, range(own), self.size, self.loop.device
            )
            latents = [
                latents_of(self.vae, to_uint8(images), self.loop.device).half().cpu()
                for images in (found.sources, found.targets)
            ]
            pieces.append((*latents, words_of(self.tokenizer, found.texts, task, self.length).int()))
        return {name: torch.cat([piece[at] for piece in pieces]) for at, name in enumerate(_NAMES)}

    def key(self, triples: TripleSource, counts: Mapping[str, int]) -> str:
        """Names all that the examples depend on; what ``triples`` makes, by the first of each task."""
        digest = hashlib.sha256(
            f"{triples.name} {counts} {self.length} {self.size} {self.loop.seed}".encode()
        )
        for task in counts:
            first = triples.triples(
                task, self.loop.seed, StepStream.ENCODED_TRIPLES, 1, [0], self.size, "cpu"
            )
            digest.update(words_of(self.tokenizer, first.texts, task, self.length).numpy().tobytes())
            for images in (first.sources, first.targets):
                digest.update(to_uint8(images).numpy().tobytes())
        return f"{encoder_sha256(self.vae)} {digest.hexdigest()}"


def load_or_encode(
    path: Path, triples: TripleSource, settings: EditSettings, encoding: Encoding, console: Console
) -> dict[str, EncodedTriples]:
    """``settings.triples`` examples, in the shares of their tasks: those at ``path`` when they are these, else new ones."""
    counts = task_counts(settings)
    key = encoding.key(triples, counts)
    if metadata(path).get("key") != key:
        folder = path.with_name(f".{path.name}.parts")
        folder.mkdir(parents=True, exist_ok=True)
        parts = [(task, number) for task, count in counts.items() for number in range(-(-count // PART))]
        files = {part: folder / f"{part[0]}-{part[1]:05d}.safetensors" for part in parts}
        for task, number in track(parts, "encoding examples with a source", console=console):
            if metadata(files[task, number]).get("key") != key:
                count = min(PART, counts[task] - number * PART)
                save_whole(files[task, number], encoding.part(triples, task, number, count), {"key": key})
        save_whole(path, _joined(files), {"key": key})
        shutil.rmtree(folder)
    with safetensors.safe_open(str(path), "pt") as file:
        return {
            task: EncodedTriples(*(file.get_tensor(f"{task}.{name}") for name in _NAMES)) for task in counts
        }


def _joined(files: Mapping[tuple[str, int], Path]) -> dict[str, Tensor]:
    """The parts of every task one after the other, as TASK.NAME."""
    whole: dict[str, list[Tensor]] = {}
    for (task, _), path in files.items():
        with safetensors.safe_open(str(path), "pt") as file:
            for name in _NAMES:
                whole.setdefault(f"{task}.{name}", []).append(file.get_tensor(name))
    return {name: torch.cat(parts) for name, parts in whole.items()}


def task_counts(settings: EditSettings) -> dict[str, int]:
    """How many of ``settings.triples`` examples each task with a source has; a task without a share is left out."""
    shares = {task: settings.shares[task] for task in SOURCE_TASKS if settings.shares[task] > 0.0}
    return {
        task: max(1, round(settings.triples * share / sum(shares.values()))) for task, share in shares.items()
    }


def words_of(tokenizer: PromptTokenizer, texts: Sequence[str | None], task: str, length: int) -> Tensor:
    """Token ids (B, L) int64 with the task's prefix, padded to ``length``; None is no text."""
    rows = [
        tokenizer.encode_empty(task, length) if text is None else tokenizer.encode(text, task, length)
        for text in texts
    ]
    return torch.from_numpy(np.stack([row.ids for row in rows]))


@torch.no_grad()
def latents_of(vae: MicroForgeVAE, pixels: Tensor, device: str) -> Tensor:
    """Normalised latents (B, C, h, w) of bytes, in float32 whatever the training's precision, as the flow's cached ones."""
    images = from_uint8(pixels.to(device, non_blocking=True))
    with torch.autocast(images.device.type, enabled=False):
        return vae.normalize(vae.encode(images).mean)
