"""Latents of the training images, encoded once: (S, C, h, w) beside their captions' token ids.

The cache is built in parts of ``order.PART`` images, each a file of its own, so that a killed build goes on where it
stopped; the parts are then joined into one file that is mapped, not read, into memory.

Letters: S images in the cache, C h w latent channels, height and width, L text tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from microforge.data.image_source import ImageSource
from microforge.data.order import PART, ExamplePlan
from microforge.data.pixels import from_uint8, to_uint8
from microforge.errors import DataError
from microforge.tokenizer import PromptTokenizer
from microforge.vae import MicroForgeVAE

_NAMES = ("latents", "captions")


@dataclass(frozen=True)
class LatentCache:
    """Normalised latents (S, C, h, w) float16 and caption ids (S, captions, L) int16; both mapped from the file."""

    latents: Tensor
    captions: Tensor


def load_or_build(
    path: Path, vae: MicroForgeVAE, tokenizer: PromptTokenizer, source: ImageSource, plan: ExamplePlan,
    size: tuple[int, int], max_length: int, device: str, console: Console, workers: int = 0,
    others: Sequence[Path] = (),
) -> LatentCache:  # fmt: skip
    """The cache at ``path``, or one of ``others``, when it was made with the same encoder, data and
    settings, else a new one.

    Args:
        plan: what to encode, from ``source.plan``.
        size: (height, width) in pixels of the images.
        max_length: L; longer captions are cut, and counted on ``console``.
        workers: processes that make images and ids.

    Raises:
        DataError: when not one image can be used.
    """
    key = cache_key(vae, tokenizer, source, plan, size, max_length)
    found = next((cache for cache in (_read(place, key) for place in (path, *others)) if cache), None)
    if found is not None:
        if (missing := plan.images - len(found.latents)) > 0:
            console.print(f"{missing} of {plan.images} images could not be used when they were encoded")
        return found
    parts = path.with_name(f".{path.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    files = [parts / f"{part:06d}.safetensors" for part in range(plan.parts)]
    _build_parts(files, key, vae, tokenizer, source, plan, size, max_length, device, console, workers)
    _join(files, path, key)
    cut = sum(int(metadata(file)["cut"]) for file in files)
    if cut:
        console.print(f"{cut} captions are longer than {max_length} tokens and were cut")
    shutil.rmtree(parts)
    cache = _read(path, key)
    if cache is None or not len(cache.latents):
        raise DataError(f"not one image of {source.name} can be used")
    return cache


def _build_parts(
    files: Sequence[Path], key: str, vae: MicroForgeVAE, tokenizer: PromptTokenizer, source: ImageSource,
    plan: ExamplePlan, size: tuple[int, int], max_length: int, device: str, console: Console, workers: int,
) -> None:  # fmt: skip
    """Write every part that an earlier, killed build has not left; ``files`` are all of them."""
    missing_parts = tuple(part for part, file in enumerate(files) if metadata(file).get("key") != key)
    made = _Made(missing_parts, source, plan, size, "cpu" if workers else device, tokenizer, max_length)
    encoded: dict[int, list[tuple[dict[str, Tensor], int]]] = {part: [] for part in missing_parts}
    with Progress(console=console) as progress:
        task = progress.add_task("encoding images", total=plan.images)
        progress.advance(task, plan.images - min(len(missing_parts) * PART, plan.images))
        for part, batch in DataLoader(made, batch_size=None, num_workers=workers):
            if batch is not None:
                pixels, ids, more = batch
                encoded[part].append(({"latents": _encode(vae, pixels, device), "captions": ids}, more))
                progress.advance(task, len(ids))
                continue
            whole = encoded.pop(part)
            cut = sum(more for _, more in whole)
            _write_part(files[part], [tensors for tensors, _ in whole], {"key": key, "cut": str(cut)})


def cache_key(
    vae: MicroForgeVAE, tokenizer: PromptTokenizer, source: ImageSource, plan: ExamplePlan,
    size: tuple[int, int], max_length: int,
) -> str:  # fmt: skip
    """Names everything that the cached tensors depend on; a tokenizer by what it makes of a few captions."""
    words = [tokenizer.tokens(text) for text in source.prompts(12)]
    rest = hashlib.sha256(repr((source.fingerprint, words)).encode()).hexdigest()
    return f"{encoder_sha256(vae)} {rest} {plan.images} {plan.captions} {plan.seed} {size} {max_length}"


def encoder_sha256(vae: MicroForgeVAE) -> str:
    """Identifies the latents that ``vae`` makes: its encoder's weights and the statistics it normalises with."""
    digest = hashlib.sha256(repr((vae.spec.mean, vae.spec.std)).encode())
    for name, value in sorted(vae.encoder.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


#: A batch of a part: bytes (B, 3, H, W), ids (B, captions, L), and how many captions were cut.
Batch = tuple[Tensor, Tensor, int]


@dataclass(frozen=True)
class _Made(IterableDataset[tuple[int, Batch | None]]):
    """The batches of ``parts``, each followed by (part, None); every worker makes parts of its own."""

    parts: tuple[int, ...]
    source: ImageSource
    plan: ExamplePlan
    size: tuple[int, int]
    device: str
    tokenizer: PromptTokenizer
    max_length: int

    def __iter__(self) -> Iterator[tuple[int, Batch | None]]:
        worker = get_worker_info()
        mine = self.parts if worker is None else self.parts[worker.id :: worker.num_workers]
        for part in mine:
            for images, captions in self.source.examples(self.plan, part, self.size, self.device):
                ids, cut = _ids(self.tokenizer, captions, self.max_length)
                yield part, (to_uint8(images), ids, cut)
            yield part, None


@torch.no_grad()
def _encode(vae: MicroForgeVAE, pixels: Tensor, device: str) -> Tensor:
    """Latents (B, C, h, w) of bytes (B, 3, H, W)."""
    images = from_uint8(pixels.to(device))
    return vae.normalize(vae.encode(images).mean).half().cpu()


def _ids(
    tokenizer: PromptTokenizer, captions: Sequence[tuple[str, ...]], max_length: int
) -> tuple[Tensor, int]:
    """Ids (B, captions, L), and how many captions were cut."""
    rows, cut = [], 0
    for texts in captions:
        known = {text: tokenizer.encode(text, "generate", max_length) for text in set(texts)}
        cut += sum(ids.truncated for ids in known.values())
        rows.append(np.stack([known[text].ids for text in texts]))
    kind = np.int16 if tokenizer.vocab_size <= 1 << 15 else np.int32
    return torch.from_numpy(np.stack(rows).astype(kind)), cut


def _write_part(file: Path, tensors: Sequence[dict[str, Tensor]], about: dict[str, str]) -> None:
    """One part through a temporary file; a part without a usable image is a file without tensors."""
    joined = (
        {name: torch.cat([part[name] for part in tensors]).contiguous() for name in _NAMES} if tensors else {}
    )
    save_whole(file, joined, about)


def save_whole(file: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """Write a safetensors file through a temporary one: it is there whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(tensors, temporary, about)
    os.replace(temporary, file)


def _join(files: Sequence[Path], path: Path, key: str) -> None:
    """The parts as one safetensors file, a part in memory at a time (``save_file`` would need them all)."""
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in _NAMES:
            for file in full:
                with safetensors.safe_open(str(file), "np") as part:
                    stream.write(part.get_tensor(name).tobytes())
    os.replace(temporary, path)


def _shapes(file: Path) -> dict[str, tuple[str, list[int]]]:
    with safetensors.safe_open(str(file), "np") as part:
        slices = {name: part.get_slice(name) for name in part.keys()}
        return {name: (found.get_dtype(), found.get_shape()) for name, found in slices.items()}


def metadata(file: Path) -> dict[str, str]:
    """What a cache or part says about itself; nothing when it is absent or damaged."""
    try:
        with safetensors.safe_open(str(file), "np") as opened:
            return dict(opened.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return {}


def _read(path: Path, key: str) -> LatentCache | None:
    if metadata(path).get("key") != key:
        return None
    with safetensors.safe_open(str(path), "pt") as file:
        if not file.keys():
            return None
        return LatentCache(*(file.get_tensor(name) for name in _NAMES))
