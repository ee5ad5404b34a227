"""Which example comes when: a function of the seed and the step's number alone.

Nothing here remembers what was drawn before, so a killed run goes on with exactly the images that an
uninterrupted one would have seen, and every process of a run can work out the whole batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

#: A batch of images (B, 3, H, W) and the captions of each.
Examples = tuple[Tensor, Sequence[tuple[str, ...]]]
#: Images of the latent cache are enumerated in parts of this many, each with a random stream of its own.
PART = 1024
#: Images per decoded batch of the enumerations.
CHUNK = 64


@dataclass(frozen=True)
class ExamplePlan:
    """What the latent cache enumerates: ``images`` images in parts of ``PART``, ``captions`` captions each."""

    images: int
    captions: int
    seed: int

    @property
    def parts(self) -> int:
        return -(-self.images // PART)


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The numpy generator of one step: data order depends on the step's number alone."""
    return np.random.default_rng([seed, step])


def epoch_rows(seed: int, step: int, count: int, total: int) -> NDArray[np.int64]:
    """Rows (count,) of step ``step`` in a set of ``total``: every epoch shows each row once, newly shuffled.

    A batch may straddle two epochs, or hold several when the set is smaller than the batch.
    """
    positions = np.arange(step * count, (step + 1) * count)
    epochs, places = np.divmod(positions, total)
    rows = np.empty(count, dtype=np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        rows[here] = _shuffled(seed, epoch, total)[places[here]]
    return rows


@functools.lru_cache(maxsize=2)  # consecutive steps share an epoch; shuffling a million rows takes 20 ms
def _shuffled(seed: int, epoch: int, total: int) -> NDArray[np.int64]:
    # 1: a stream apart from step_rng's two-number seeds
    return np.random.default_rng([seed, epoch, 1]).permutation(total)
