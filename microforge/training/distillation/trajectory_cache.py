"""The trajectory cache: latents of each trajectory at a few times, with captions and sources, in half precision.

The cache is a folder of safetensors files of ``FILE_ROWS`` trajectories of a task each. Files are written whole or not at
all, so a killed build continues with the first missing one. Every file says which teacher, data and settings it was
generated with; one that does not match is refused.

Letters: S trajectories of a task, P points of a trajectory, L text tokens, C h w latent channels, height and width.
"""

from __future__ import annotations

import json
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
from microforge.io.atomic import atomic_path

#: Trajectories of a file, which are generated together.
FILE_ROWS = 64
#: Bytes of a file beside its tensors.
_HEADER = 1_024
_FORMAT = "2"


@dataclass(frozen=True)
class CacheIdentity:
    """What trajectories were generated with; a cache of anything else is another cache."""

    teacher: str  # its weights and configuration
    guidance: str
    size: str
    data: str
    seed: int
    precision: str
    format: str = _FORMAT


@dataclass(frozen=True)
class TrajectoryBatch:
    """``points`` (S, P, C, h, w) from noise to image, ``truth`` (S, C, h, w) the latent of the data, ``ids`` (S, L).

    ``source`` (S, C, h, w) belongs to the tasks that have one.
    """

    points: Tensor
    truth: Tensor
    ids: Tensor
    source: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors as a cache file stores them."""
        stored = {"points": self.points.half(), "truth": self.truth.half(), "ids": self.ids.to(torch.int32)}
        return stored if self.source is None else {**stored, "source": self.source.half()}


@dataclass(frozen=True)
class CacheSize:
    """Bytes of a cache, those of its missing files, and the free bytes of its disk."""

    total: int
    missing: int
    free: int


def file_count(rows: int) -> int:
    """Files of a task with ``rows`` trajectories; every file is full, of the last one some may be unused."""
    return -(-rows // FILE_ROWS)


def cache_file(folder: Path, task: str, number: int) -> Path:
    """The file ``number`` of ``task``."""
    return folder / f"{task}-{number:06d}.safetensors"


def verdicts_file(file: Path) -> Path:
    """The file with the oracle's verdicts on the trajectories of a cache file."""
    return file.with_suffix(".verdicts.npy")


def trajectory_bytes(latent: tuple[int, int, int], intervals: int, length: int, with_source: bool) -> int:
    """Bytes of one trajectory: points, the latent of the data, that of the source, token ids."""
    latents = intervals + 2 + int(with_source)
    return 2 * latents * int(np.prod(latent)) + 4 * length


def predict_size(
    folder: Path,
    rows: Mapping[str, int],
    latent: tuple[int, int, int],
    intervals: Mapping[str, int],
    length: int,
) -> CacheSize:
    """The size of a cache in ``folder``; writes nothing.

    Args:
        folder: The cache.
        rows: Task -> trajectories.
        latent: (C, h, w).
        intervals: Task -> points of a trajectory minus one.
        length: L.
    """
    total = missing = 0
    for task, count in rows.items():
        each = FILE_ROWS * trajectory_bytes(latent, intervals[task], length, task != "generate") + _HEADER
        numbers = range(file_count(count))
        total += each * len(numbers)
        missing += each * sum(not cache_file(folder, task, number).is_file() for number in numbers)
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return CacheSize(total, missing, shutil.disk_usage(place).free)


def check_room(size: CacheSize, folder: Path) -> None:
    """Check that the disk has room for the missing files, with 5 % to spare.

    Raises:
        OutputError: when it does not.
    """
    if size.missing * 1.05 > size.free:
        raise OutputError(
            f"{folder} needs {megabytes(size.missing)} more and the disk has {megabytes(size.free)}: free some space, "
            "choose another cache folder, or ask for fewer trajectories"
        )


def megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:,.1f} MB"


def write_cache_file(path: Path, trajectories: TrajectoryBatch, identity: CacheIdentity) -> None:
    """Write one file; an old one is replaced.

    Raises:
        OutputError: when it cannot be written, on a full disk for example.
    """
    tensors = {name: value.cpu().contiguous() for name, value in trajectories.tensors.items()}
    with atomic_path(path, force=True) as temporary:
        save_file(tensors, temporary, {"identity": json.dumps(asdict(identity))})
        verdicts_file(path).unlink(missing_ok=True)  # of the trajectories that are replaced


def cache_file_fits(path: Path, identity: CacheIdentity, intervals: int) -> bool:
    """Whether ``path`` exists and serves ``intervals`` intervals.

    Raises:
        CheckpointError: when it was generated with other inputs, holds too few points, or is damaged.
    """
    if not path.is_file():
        return False
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            stored = json.loads((file.metadata() or {}).get("identity", "{}"))
            points = file.get_slice("points").get_shape()[1]
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove it, or rebuild with --force") from None
    for key, value in asdict(identity).items():
        if stored.get(key) != value:
            raise CheckpointError(
                f"{path.parent} holds trajectories of another {key} ({stored.get(key)!r}, not {value!r}): --force "
                "generates them again, --set cache=FOLDER preserves them"
            )
    if (points - 1) % intervals:
        raise CheckpointError(
            f"{path.parent} stores {points - 1} intervals per trajectory and {intervals} are needed: --force generates "
            "them again, --set cache=FOLDER preserves them"
        )
    return True


def remove_partial_files(folder: Path) -> None:
    """Remove files that a killed build has left half written."""
    for path in (*folder.glob(".*.safetensors.*"), *folder.glob(".*.verdicts.npy.*")):
        path.unlink()


class TrajectoryDataset:
    """The cached trajectories of one task, memory-mapped; ``intervals`` + 1 points of each.

    ``replacements`` (rows,) names for every row the row that is used instead (rejection sampling); None: itself.
    """

    replacements: NDArray[np.int64] | None = None

    def __init__(self, files: Sequence[Path], rows: int, intervals: int) -> None:
        """Map the files of one task, in order."""
        self.rows, self.intervals = rows, intervals
        self._files: list[dict[str, Tensor]] = []
        for file in files:
            with safetensors.safe_open(str(file), "pt") as opened:
                self._files.append({name: opened.get_tensor(name) for name in opened.keys()})

    def ids(self) -> Tensor:
        """Token ids (rows, L) of all trajectories, without replacements."""
        return torch.cat([file["ids"] for file in self._files])[: self.rows].long()

    def take(self, rows: Sequence[int]) -> TrajectoryBatch:
        """The trajectories ``rows``, or their replacements, in float32, in the order of ``rows``."""
        if self.replacements is not None:
            rows = self.replacements[np.asarray(rows)].tolist()

        def column(name: str) -> Tensor:
            return torch.stack(
                [_widened(self._files[row // FILE_ROWS][name][row % FILE_ROWS]) for row in rows]
            )

        points = column("points")
        points = points[:, :: (points.shape[1] - 1) // self.intervals]
        source = column("source") if "source" in self._files[0] else None
        return TrajectoryBatch(points, column("truth"), column("ids"), source)


def _widened(value: Tensor) -> Tensor:
    """float32 or int64: autocast does not mix half precision with the rest."""
    return value.float() if value.is_floating_point() else value.long()


def open_cache(folder: Path, rows: Mapping[str, int], intervals: int) -> dict[str, TrajectoryDataset]:
    """Task -> its trajectories, ``rows`` of each task; all files exist."""
    return {
        task: TrajectoryDataset(
            [cache_file(folder, task, number) for number in range(file_count(count))], count, intervals
        )
        for task, count in rows.items()
        if count
    }
