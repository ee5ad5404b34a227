"""Prefetching: worker processes prepare the data of the next steps while the device trains.

The data of a step depends on the step's number alone, so a worker can prepare it early, and the trained weights are the
same with any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

from microforge.data.mixture import MixedSource, MixedTriples
from microforge.data.stickers.edit_triples import StickerTriples
from microforge.data.stickers.image_source import StickerSource
from microforge.data.world.edit_triples import SceneTriples
from microforge.data.world.image_source import SceneSource
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.loop_options import LoopSettings

T = TypeVar("T")
#: Prepares the rows of one piece of one step: in a worker on the CPU, without workers on the training device.
Prepare = Callable[[int, BatchShard], T]
#: A step and a piece of its batch.
StepPiece = tuple[int, BatchShard]
#: Sources that render their images. The user's images are decoded by threads, and this process reports the broken ones.
RENDERED = (SceneSource, SceneTriples, StickerSource, StickerTriples, MixedSource, MixedTriples)
#: Steps that each worker prepares in advance.
DEPTH = 2


@dataclass(frozen=True)
class _StepDataset(Dataset[T]):
    prepare: Prepare[T]

    def __getitem__(self, key: StepPiece) -> T:
        return self.prepare(*key)


class Prefetcher(Generic[T]):
    """Calls ``prepare`` for consecutive steps in ``workers`` processes; in this process when that is 0."""

    def __init__(self, prepare: Prepare[T], workers: int, pieces: int = 1, pin: bool = False) -> None:
        """Store the arguments; workers start at the first call.

        Args:
            prepare: Returns tensors, or tuples of them, on the CPU.
            workers: Number of processes.
            pieces: Micro-batches of a process and step.
            pin: Put tensors in page-locked memory, from which a GPU copies without blocking.
        """
        self.prepare, self.workers, self.pieces, self.pin = prepare, workers, pieces, pin
        self._expected: StepPiece | None = None
        self._results: Iterator[T] = iter(())

    def __call__(self, step: int, shard: BatchShard = WHOLE) -> T:
        """The result of ``prepare(step, shard)``, prepared already when the calls are consecutive."""
        if self.workers == 0:
            return self.prepare(step, shard)
        if self._expected != (step, shard):
            loader = DataLoader(
                _StepDataset(self.prepare),
                batch_size=None,
                sampler=_StepPieces(step, shard, self.pieces),
                num_workers=self.workers,
                prefetch_factor=DEPTH,
                pin_memory=self.pin,
            )
            self._results = iter(loader)
        self._expected = _following(step, shard, self.pieces)
        return next(self._results)


def prefetched(
    prepare: Callable[[str, int, BatchShard], T], source: object, loop: LoopSettings
) -> Prefetcher[T]:
    """A prefetcher of ``prepare(device, step, shard)`` for a run: workers use the CPU, this process its own device."""
    workers = prefetch_workers(source, loop)
    device = "cpu" if workers else loop.device
    return Prefetcher(partial(prepare, device), workers, loop.accumulate, pin=loop.cuda)


def prefetch_workers(source: object, loop: LoopSettings) -> int:
    """Worker processes that prefetch from ``source``."""
    return loop.workers if isinstance(source, RENDERED) else 0


def _following(step: int, shard: BatchShard, pieces: int) -> StepPiece:
    """The next piece of a process: its next micro-batch, or the first one of the next step."""
    if (shard.index + 1) % pieces:
        return step, BatchShard(shard.index + 1, shard.count)
    return step + 1, BatchShard(shard.index + 1 - pieces, shard.count)


class _StepPieces:
    """All pieces from a given one on, in the order of training."""

    def __init__(self, step: int, shard: BatchShard, pieces: int) -> None:
        self.first, self.pieces = (step, shard), pieces

    def __iter__(self) -> Iterator[StepPiece]:
        key = self.first
        while True:
            yield key
            key = _following(*key, self.pieces)
