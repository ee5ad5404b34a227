"""Data of the steps to come, made by worker processes while the device trains.

A step's data depends on the step's number alone, so a worker can make it before it is asked for, and what is
trained is the same with any number of workers.
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
from microforge.training.engine.batch_shard import WHOLE, Shard
from microforge.training.settings import LoopSettings

T = TypeVar("T")
#: Makes the rows of one piece of one step; without workers on the training device, in a worker on the CPU.
Make = Callable[[int, Shard], T]
Key = tuple[int, Shard]
#: Sources whose examples are made as they are needed, by any process.
MADE_AS_NEEDED = (SceneSource, SceneTriples, StickerSource, StickerTriples, MixedSource, MixedTriples)
#: Steps that each worker makes before they are wanted.
DEPTH = 2


@dataclass(frozen=True)
class _Steps(Dataset[T]):
    make: Make[T]

    def __getitem__(self, key: Key) -> T:
        return self.make(*key)


class Ahead(Generic[T]):
    """``make`` called for one step after the other, by ``workers`` processes; by this one when that is 0."""

    def __init__(self, make: Make[T], workers: int, pieces: int = 1, pin: bool = False) -> None:
        """Start nothing yet.

        Args:
            make: gives tensors, or tuples of them, on the CPU. pieces: micro-batches of a process and step.
            pin: put tensors in page-locked memory, from where a GPU copies them without being waited for.
        """
        self.make, self.workers, self.pieces, self.pin = make, workers, pieces, pin
        self._expected: Key | None = None
        self._made: Iterator[T] = iter(())

    def __call__(self, step: int, shard: Shard = WHOLE) -> T:
        """What ``make(step, shard)`` gives; made already when it follows the last call's."""
        if self.workers == 0:
            return self.make(step, shard)
        if self._expected != (step, shard):
            loader = DataLoader(
                _Steps(self.make), batch_size=None, sampler=_Keys(step, shard, self.pieces),
                num_workers=self.workers, prefetch_factor=DEPTH, pin_memory=self.pin,
            )  # fmt: skip
            self._made = iter(loader)
        self._expected = _after(step, shard, self.pieces)
        return next(self._made)


def made_ahead(make: Callable[[str, int, Shard], T], source: object, loop: LoopSettings) -> Ahead[T]:
    """``make(device, step, shard)`` of ``source`` for a run: by its workers on the CPU, else on its own device."""
    workers = ahead_workers(source, loop)
    return Ahead(partial(make, "cpu" if workers else loop.device), workers, loop.accumulate, pin=loop.cuda)


def ahead_workers(source: object, loop: LoopSettings) -> int:
    """Workers that help with ``source``: photos are decoded by threads, and the run keeps account of broken ones."""
    return loop.workers if isinstance(source, MADE_AS_NEEDED) else 0


def _after(step: int, shard: Shard, pieces: int) -> Key:
    """The piece that a process works on next: its next micro-batch, or the first of the next step."""
    if (shard.index + 1) % pieces:
        return step, Shard(shard.index + 1, shard.count)
    return step + 1, Shard(shard.index + 1 - pieces, shard.count)


class _Keys:
    """The pieces in the order of training, without an end."""

    def __init__(self, step: int, shard: Shard, pieces: int) -> None:
        self.first, self.pieces = (step, shard), pieces

    def __iter__(self) -> Iterator[Key]:
        key = self.first
        while True:
            yield key
            key = _after(*key, self.pieces)
