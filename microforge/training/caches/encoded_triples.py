"""The cache of encoded triples: examples with a source that are made and encoded once and reused at every step.

Encoding two new images for every example takes a CPU as long as the training step itself. The cache is built in parts, each
a file of its own, so that a killed build continues where it stopped.

Letters: N examples of a task, B examples of a batch, C h w latent channels, height and width, L text tokens.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from microforge.data.edit_examples import SOURCE_TASKS, TripleSource
from microforge.data.pixels import to_uint8
from microforge.streams import StepStream
from microforge.training.caches.encoder import LatentEncoder, encoder_sha256
from microforge.training.caches.files import read_metadata, write_atomically
from microforge.training.settings import EditSettings

#: Examples of a part, and examples that are encoded together.
PART, BATCH = 512, 32
_NAMES = ("sources", "targets", "ids")


@dataclass(frozen=True)
class EncodedTriples:
    """Examples of one task: latents (N, C, h, w) float16 of sources and targets, token ids (N, L) int32."""

    sources: Tensor
    targets: Tensor
    ids: Tensor


def load_or_encode(
    path: Path,
    triples: TripleSource,
    settings: EditSettings,
    encoder: LatentEncoder,
    seed: int,
    console: Console,
) -> dict[str, EncodedTriples]:
    """``settings.triples`` encoded examples, by task: those at ``path`` when they match, else new ones."""
    counts = task_counts(settings)
    key = _key(triples, counts, encoder, seed)
    if read_metadata(path).get("key") != key:
        folder = path.with_name(f".{path.name}.parts")
        folder.mkdir(parents=True, exist_ok=True)
        parts = [(task, number) for task, count in counts.items() for number in range(-(-count // PART))]
        files = {part: folder / f"{part[0]}-{part[1]:05d}.safetensors" for part in parts}
        for task, number in track(parts, "encoding examples with a source", console=console):
            if read_metadata(files[task, number]).get("key") != key:
                count = min(PART, counts[task] - number * PART)
                tensors = _encode_part(triples, task, number, count, encoder, seed)
                write_atomically(files[task, number], tensors, {"key": key})
        write_atomically(path, _concatenated(files), {"key": key})
        shutil.rmtree(folder)
    with safetensors.safe_open(str(path), "pt") as file:
        return {
            task: EncodedTriples(*(file.get_tensor(f"{task}.{name}") for name in _NAMES)) for task in counts
        }


def task_counts(settings: EditSettings) -> dict[str, int]:
    """Examples of each task with a source, ``settings.triples`` in all; tasks without a share are left out."""
    shares = {task: settings.shares[task] for task in SOURCE_TASKS if settings.shares[task] > 0.0}
    return {
        task: max(1, round(settings.triples * share / sum(shares.values()))) for task, share in shares.items()
    }


def _key(triples: TripleSource, counts: Mapping[str, int], encoder: LatentEncoder, seed: int) -> str:
    """Identifies everything that the examples depend on; ``triples`` by its first example of each task."""
    digest = hashlib.sha256(f"{triples.name} {counts} {encoder.max_length} {encoder.size} {seed}".encode())
    for task in counts:
        first = triples.triples(task, seed, StepStream.ENCODED_TRIPLES, 1, [0], encoder.size, "cpu")
        digest.update(encoder.ids(first.texts, task).numpy().tobytes())
        for images in (first.sources, first.targets):
            digest.update(to_uint8(images).numpy().tobytes())
    return f"{encoder_sha256(encoder.vae)} {digest.hexdigest()}"


def _encode_part(
    triples: TripleSource, task: str, number: int, count: int, encoder: LatentEncoder, seed: int
) -> dict[str, Tensor]:
    """``count`` encoded examples of ``task``, a function of ``number`` and ``seed`` alone."""
    batches = []
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        # every batch has a number of its own, so that none depends on how the others are cut
        stream = StepStream.ENCODED_TRIPLES + (number * PART + start) // BATCH
        examples = triples.triples(task, seed, stream, size, range(size), encoder.size, encoder.device)
        latents = [
            encoder.latents(to_uint8(images)).half().cpu() for images in (examples.sources, examples.targets)
        ]
        batches.append((*latents, encoder.ids(examples.texts, task).int()))
    return {name: torch.cat([batch[index] for batch in batches]) for index, name in enumerate(_NAMES)}


def _concatenated(files: Mapping[tuple[str, int], Path]) -> dict[str, Tensor]:
    """The parts of every task one after the other, as TASK.NAME."""
    whole: dict[str, list[Tensor]] = {}
    for (task, _), path in files.items():
        with safetensors.safe_open(str(path), "pt") as file:
            for name in _NAMES:
                whole.setdefault(f"{task}.{name}", []).append(file.get_tensor(name))
    return {name: torch.cat(parts) for name, parts in whole.items()}
