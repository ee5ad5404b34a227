"""The order of training examples, a pure function of the seed and the step number.

There is no iterator state. A resumed run therefore continues with the images that an uninterrupted run would have
used, and every process of a distributed run can compute the whole batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

#: A batch of images (B, 3, H, W), and the captions of each image.
Examples = tuple[Tensor, Sequence[tuple[str, ...]]]
#: Images per part of the latent cache; each part has its own random stream.
PART = 1024
#: Images that are decoded at once when a data set is enumerated.
CHUNK = 64


@dataclass(frozen=True)
class ExamplePlan:
    """Images that the latent cache encodes: ``images`` in parts of ``PART``, each with ``captions`` captions."""

    images: int
    captions: int
    seed: int

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.images // PART)


def step_rng(seed: int, step: int) -> np.random.Generator:
    """Numpy generator of one training step."""
    return np.random.default_rng([seed, step])


def epoch_rows(seed: int, step: int, count: int, total: int) -> NDArray[np.int64]:
    """Rows (count,) that step ``step`` takes of a data set of ``total`` rows, shuffled anew in every epoch.

    A batch may span two epochs, or several when the data set is smaller than the batch.
    """
    positions = np.arange(step * count, (step + 1) * count)
    epochs, offsets = np.divmod(positions, total)
    rows = np.empty(count, dtype=np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        in_epoch = epochs == epoch
        rows[in_epoch] = _shuffled(seed, epoch, total)[offsets[in_epoch]]
    return rows


@functools.lru_cache(maxsize=2)  # consecutive steps share an epoch; shuffling a million rows takes 20 ms
def _shuffled(seed: int, epoch: int, total: int) -> NDArray[np.int64]:
    # The third number keeps this stream apart from step_rng, whose seeds have two numbers.
    return np.random.default_rng([seed, epoch, 1]).permutation(total)
