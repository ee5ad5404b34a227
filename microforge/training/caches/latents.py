"""The latent cache: every training image encoded once, beside the token ids of its captions.

The cache is built in parts of ``order.PART`` images, each a file of its own, so that a killed build continues where it
stopped. The parts are then joined into one file, which is memory-mapped.

Letters: S images in the cache, B images of a batch, C h w latent channels, height and width, L text tokens.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from microforge.data.image_source import ImageSource
from microforge.data.order import PART, ExamplePlan
from microforge.data.pixels import to_uint8
from microforge.errors import DataError
from microforge.io.atomic import atomic_file
from microforge.tokenizer import PromptTokenizer
from microforge.training.caches.encoder import LatentEncoder, encoder_sha256
from microforge.training.caches.files import read_metadata, write_atomically

_NAMES = ("latents", "captions")


@dataclass(frozen=True)
class LatentCache:
    """Normalised latents (S, C, h, w) float16 and caption ids (S, captions, L) int16, memory-mapped."""

    latents: Tensor
    captions: Tensor


def load_or_build(
    path: Path,
    encoder: LatentEncoder,
    source: ImageSource,
    plan: ExamplePlan,
    console: Console,
    workers: int = 0,
    others: Sequence[Path] = (),
) -> LatentCache:
    """The latent cache at ``path`` or in ``others`` when it matches encoder, data and settings, else a new one.

    Args:
        path: File of the cache.
        encoder: Encodes images and captions.
        source: Images and captions.
        plan: What to encode, from ``source.plan``.
        console: Shows progress, and how many captions were truncated.
        workers: Processes that make images and token ids.
        others: Caches of other stages that may match, too.

    Raises:
        DataError: when not one image can be used.
    """
    key = cache_key(encoder, source, plan)
    existing = next((cache for cache in (_read(place, key) for place in (path, *others)) if cache), None)
    if existing is not None:
        if (missing := plan.images - len(existing.latents)) > 0:
            console.print(f"{missing} of {plan.images} images could not be used when they were encoded")
        return existing
    parts = path.with_name(f".{path.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    files = [parts / f"{part:06d}.safetensors" for part in range(plan.parts)]
    missing_parts = tuple(part for part, file in enumerate(files) if read_metadata(file).get("key") != key)
    batches = _Batches(missing_parts, encoder, source, plan, "cpu" if workers else encoder.device)
    _build_parts(files, key, batches, console, workers)
    _join(files, path, key)
    truncated = sum(int(read_metadata(file)["cut"]) for file in files)
    if truncated:
        console.print(f"{truncated} captions are longer than {encoder.max_length} tokens and were truncated")
    shutil.rmtree(parts)
    cache = _read(path, key)
    if cache is None or not len(cache.latents):
        raise DataError(f"not one image of {source.name} can be used")
    return cache


def cache_key(encoder: LatentEncoder, source: ImageSource, plan: ExamplePlan) -> str:
    """Identifies everything that the cached tensors depend on; the tokenizer by its tokens of a few captions."""
    tokens = [encoder.tokenizer.tokens(text) for text in source.prompts(12)]
    rest = hashlib.sha256(repr((source.fingerprint, tokens)).encode()).hexdigest()
    sizes = f"{plan.images} {plan.captions} {plan.seed} {encoder.size} {encoder.max_length}"
    return f"{encoder_sha256(encoder.vae)} {rest} {sizes}"


#: A batch of a part: uint8 images (B, 3, H, W), ids (B, captions, L), and the number of truncated captions.
CaptionedBatch = tuple[Tensor, Tensor, int]


@dataclass(frozen=True)
class _Batches(IterableDataset[tuple[int, CaptionedBatch | None]]):
    """The batches of ``parts``, each part ended by (part, None); workers share the parts among themselves."""

    parts: tuple[int, ...]
    encoder: LatentEncoder
    source: ImageSource
    plan: ExamplePlan
    device: str  # on which images are made

    def __iter__(self) -> Iterator[tuple[int, CaptionedBatch | None]]:
        worker, encoder = get_worker_info(), self.encoder
        own_parts = self.parts if worker is None else self.parts[worker.id :: worker.num_workers]
        for part in own_parts:
            for images, captions in self.source.examples(self.plan, part, encoder.size, self.device):
                ids, truncated = _ids(encoder.tokenizer, captions, encoder.max_length)
                yield part, (to_uint8(images), ids, truncated)
            yield part, None


def _build_parts(files: Sequence[Path], key: str, batches: _Batches, console: Console, workers: int) -> None:
    """Write the parts of ``batches``, those that an earlier, killed build has not left; ``files`` are of all parts."""
    encoded: dict[int, list[tuple[dict[str, Tensor], int]]] = {part: [] for part in batches.parts}
    images = batches.plan.images
    with Progress(console=console) as progress:
        task = progress.add_task("encoding images", total=images)
        progress.advance(task, images - min(len(batches.parts) * PART, images))
        for part, batch in DataLoader(batches, batch_size=None, num_workers=workers):
            if batch is not None:
                pixels, ids, count = batch
                latents = batches.encoder.latents(pixels).half().cpu()
                encoded[part].append(({"latents": latents, "captions": ids}, count))
                progress.advance(task, len(ids))
                continue
            whole = encoded.pop(part)
            truncated = sum(count for _, count in whole)
            _write_part(files[part], [tensors for tensors, _ in whole], {"key": key, "cut": str(truncated)})


def _ids(
    tokenizer: PromptTokenizer, captions: Sequence[tuple[str, ...]], max_length: int
) -> tuple[Tensor, int]:
    """Ids (B, captions, L), and the number of truncated captions."""
    rows, truncated = [], 0
    for texts in captions:
        encoded = {text: tokenizer.encode(text, "generate", max_length) for text in set(texts)}
        truncated += sum(ids.truncated for ids in encoded.values())
        rows.append(np.stack([encoded[text].ids for text in texts]))
    kind = np.int16 if tokenizer.vocab_size <= 1 << 15 else np.int32
    return torch.from_numpy(np.stack(rows).astype(kind)), truncated


def _write_part(file: Path, tensors: Sequence[dict[str, Tensor]], metadata: dict[str, str]) -> None:
    """Write one part; a part without a usable image is a file without tensors."""
    joined = (
        {name: torch.cat([part[name] for part in tensors]).contiguous() for name in _NAMES} if tensors else {}
    )
    write_atomically(file, joined, metadata)


def _join(files: Sequence[Path], path: Path, key: str) -> None:
    """Join the parts into one safetensors file, one part in memory at a time (``save_file`` would need them all)."""
    full = [file for file in files if _shapes(file)]
    shapes = [_shapes(file) for file in full]
    header: dict[str, object] = {"__metadata__": {"key": key}}
    start = 0
    for name in _NAMES if full else ():
        kind, tail = shapes[0][name][0], shapes[0][name][1][1:]
        shape = [sum(shape[name][1][0] for shape in shapes), *tail]
        end = start + int(np.prod(shape)) * {"F16": 2, "I16": 2, "I32": 4}[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    encoded = json.dumps(header).encode("ascii")
    encoded += b" " * (-len(encoded) % 8)
    with atomic_file(path, force=True) as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in _NAMES:
            for file in full:
                with safetensors.safe_open(str(file), "np") as part:
                    stream.write(part.get_tensor(name).tobytes())


def _shapes(file: Path) -> dict[str, tuple[str, list[int]]]:
    with safetensors.safe_open(str(file), "np") as part:
        slices = {name: part.get_slice(name) for name in part.keys()}
        return {name: (item.get_dtype(), item.get_shape()) for name, item in slices.items()}


def _read(path: Path, key: str) -> LatentCache | None:
    if read_metadata(path).get("key") != key:
        return None
    with safetensors.safe_open(str(path), "pt") as file:
        if not file.keys():
            return None
        return LatentCache(*(file.get_tensor(name) for name in _NAMES))
