"""The teacher's drawings on disk: latents at a few times of each, with captions and sources, in half precision.

The cache is a folder of shards, one safetensors file per ``CHUNK`` drawings of a task, each written whole or not at
all: a killed build goes on with the first one that is missing. Every shard says which teacher, data and settings it
was made with; one that was made with others is refused.

Letters: S drawings of a task, P points of a drawing, L text tokens, C h w latent channels, height and width.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from microforge.errors import CheckpointError, OutputError

#: Drawings of a shard; so many are drawn together.
CHUNK = 64
#: Added to the tensors of a shard: its header.
_HEADER = 1_024
_FORMAT = "2"


@dataclass(frozen=True)
class CacheIdentity:
    """What the drawings were made with; a cache with anything else is another cache."""

    teacher: str  # of its weights and configuration
    guidance: str
    size: str
    data: str
    seed: int
    precision: str
    format: str = _FORMAT


@dataclass(frozen=True)
class Shard:
    """``points`` (S, P, C, h, w) from noise to image, ``truth`` (S, C, h, w) the data's own latent, ``ids`` (S, L).

    ``source`` (S, C, h, w) belongs to the tasks that have one.
    """

    points: Tensor
    truth: Tensor
    ids: Tensor
    source: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        found = {"points": self.points.half(), "truth": self.truth.half(), "ids": self.ids.to(torch.int32)}
        return found if self.source is None else {**found, "source": self.source.half()}


@dataclass(frozen=True)
class CacheSize:
    """Bytes of a cache: all of it, what is still missing, and what the disk has left."""

    total: int
    missing: int
    free: int


def shard_counts(rows: int) -> tuple[int, ...]:
    """Drawings of each shard of a task with ``rows`` drawings; every shard is full, the last one is not all used."""
    return (CHUNK,) * -(-rows // CHUNK)


def shard_path(folder: Path, task: str, number: int) -> Path:
    return folder / f"{task}-{number:06d}.safetensors"


def verdicts_path(shard: Path) -> Path:
    """Where it lies which drawings of ``shard`` are faithful (``faithful.py``)."""
    return shard.with_suffix(".verdicts.npy")


def drawing_bytes(latent: tuple[int, int, int], intervals: int, length: int, with_source: bool) -> int:
    """Bytes that one drawing takes: points, the data's own latent, the source's, token ids."""
    latents = intervals + 2 + int(with_source)
    return 2 * latents * int(np.prod(latent)) + 4 * length


def predict_size(
    folder: Path, rows: Mapping[str, int], latent: tuple[int, int, int], intervals: Mapping[str, int], length: int
) -> CacheSize:  # fmt: skip
    """What a cache of ``rows`` drawings per task takes, and has yet to take, in ``folder``; writes nothing.

    Args:
        latent: (C, h, w). intervals: task -> points less one. length: L.
    """
    total = missing = 0
    for task, count in rows.items():
        each = CHUNK * drawing_bytes(latent, intervals[task], length, task != "generate") + _HEADER
        numbers = range(len(shard_counts(count)))
        total += each * len(numbers)
        missing += each * sum(not shard_path(folder, task, number).is_file() for number in numbers)
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return CacheSize(total, missing, shutil.disk_usage(place).free)


def check_room(size: CacheSize, folder: Path) -> None:
    """Raise OutputError when the disk cannot take what is missing, with a twentieth to spare."""
    if size.missing * 1.05 > size.free:
        raise OutputError(
            f"{folder} needs {megabytes(size.missing)} more and the disk has {megabytes(size.free)}: free some, choose "
            "another --cache, or ask for fewer --drawings"
        )


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def write_shard(path: Path, shard: Shard, identity: CacheIdentity) -> None:
    """Write one shard through a temporary file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    tensors = {name: value.cpu().contiguous() for name, value in shard.tensors.items()}
    save_file(tensors, temporary, {"identity": json.dumps(asdict(identity))})
    temporary.chmod(0o644)  # safetensors makes it readable by its owner alone
    verdicts_path(path).unlink(missing_ok=True)  # of the drawings that were here before
    os.replace(temporary, path)


def shard_fits(path: Path, identity: CacheIdentity, intervals: int) -> bool:
    """Whether ``path`` is there and serves ``intervals`` intervals; False when it is absent.

    Raises:
        CheckpointError: when it was made with another teacher or other settings, holds too few points, or is damaged.
    """
    if not path.is_file():
        return False
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            found = json.loads((file.metadata() or {}).get("identity", "{}"))
            points = file.get_slice("points").get_shape()[1]
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove it, or rebuild with --force") from None
    wanted = asdict(identity)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise CheckpointError(
                f"{path.parent} holds drawings with another {key} ({found.get(key)!r}, not {value!r}): --force draws them "
                "again, --cache FOLDER keeps them"
            )
    if (points - 1) % intervals:
        raise CheckpointError(
            f"{path.parent} keeps {points - 1} intervals of each drawing and {intervals} are needed: --force draws them "
            "again, --cache FOLDER keeps them"
        )
    return True


def sweep(folder: Path) -> None:
    """Remove what a killed build left half written."""
    for path in (*folder.glob(".*.safetensors.*"), *folder.glob(".*.verdicts.npy.*")):
        path.unlink()


class Drawings:
    """The drawings of one task, mapped from their shards; ``intervals`` + 1 points of each.

    ``stand_ins`` (rows,) names for every drawing the one that is taken in its place; None: itself.
    """

    stand_ins: NDArray[np.int64] | None = None

    def __init__(self, files: Sequence[Path], rows: int, intervals: int) -> None:
        self.rows, self.intervals = rows, intervals
        self._shards: list[dict[str, Tensor]] = []
        for file in files:
            with safetensors.safe_open(str(file), "pt") as opened:
                self._shards.append({name: opened.get_tensor(name) for name in opened.keys()})

    def ids(self) -> Tensor:
        """Token ids (rows, L) of all drawings, in their own order."""
        return torch.cat([shard["ids"] for shard in self._shards])[: self.rows].long()

    def take(self, rows: Sequence[int]) -> Shard:
        """The drawings ``rows``, or their stand-ins, in float32, as a batch in the order asked for."""
        if self.stand_ins is not None:
            rows = self.stand_ins[np.asarray(rows)].tolist()

        def column(name: str) -> Tensor:
            return torch.stack([_wide(self._shards[row // CHUNK][name][row % CHUNK]) for row in rows])

        points = column("points")
        points = points[:, :: (points.shape[1] - 1) // self.intervals]
        source = column("source") if "source" in self._shards[0] else None
        return Shard(points, column("truth"), column("ids"), source)


def _wide(value: Tensor) -> Tensor:
    """float32 or int64: autocast does not mix half precision with the rest."""
    return value.float() if value.is_floating_point() else value.long()


def open_cache(folder: Path, rows: Mapping[str, int], intervals: int) -> dict[str, Drawings]:
    """The drawings of every task, ``rows`` of each; all shards are there."""
    return {
        task: Drawings(
            [shard_path(folder, task, number) for number in range(len(shard_counts(count)))], count, intervals
        )
        for task, count in rows.items()
        if count
    }
