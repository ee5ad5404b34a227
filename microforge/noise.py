"""Portable Gaussian noise: the same numbers in Python, Kotlin, Swift and JavaScript (SPEC section 10).

Philox-4x32-10 (Salmon et al. 2011) maps (seed, block index) to four 32-bit words; Box-Muller in double
precision maps these to four normal numbers. Element i of a tensor, counted in C, H, W order, is number i % 4 of
block i // 4. ``tests/fixtures/noise.json`` holds golden vectors that every language replays.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from microforge.errors import SpecError

#: The name that a bundle manifest gives this generator.
NOISE_NAME: Final = "philox4x32-10/box-muller"

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10


def check_seed(seed: int) -> int:
    """Check that ``seed`` fits in 64 unsigned bits, and return it.

    Raises:
        SpecError: otherwise.
    """
    if not hasattr(seed, "__index__") or not 0 <= seed < 2**64:
        raise SpecError(f"seed is {str(seed)[:80]}; allowed: 0 to {2**64 - 1}")
    return seed


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Random words (n, 4) of ten Philox rounds on the rows of ``counter`` (n, 4) under two 32-bit ``key`` words."""
    c0, c1, c2, c3 = counter.astype(np.uint64).T
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> _HALF) ^ c1 ^ k0,
            product1 & _LOW,
            (product0 >> _HALF) ^ c3 ^ k1,
            product0 & _LOW,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return np.stack((c0, c1, c2, c3), axis=1).astype(np.uint32)


def raw_words(seed: int, first_block: int, blocks: int) -> NDArray[np.uint32]:
    """The words (blocks, 4) of consecutive blocks; key and counter are split into (low, high) 32-bit halves."""
    check_seed(seed)
    index = np.arange(first_block, first_block + blocks, dtype=np.uint64)
    counter = np.zeros((blocks, 4), dtype=np.uint32)
    counter[:, 0] = (index & _LOW).astype(np.uint32)
    counter[:, 1] = (index >> _HALF).astype(np.uint32)
    return philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))


def standard_normal(seed: int, shape: tuple[int, ...], offset: int = 0) -> NDArray[np.float32]:
    """Standard normal noise of ``shape``, float32.

    Args:
        seed: 0 to 2**64 - 1.
        shape: of the result, for example (1, C, h, w).
        offset: index of the first element in the seed's sequence.

    Raises:
        SpecError: for a seed, a side or an offset that is out of range.
    """
    if offset < 0 or any(side < 0 for side in shape):
        raise SpecError(f"shape {shape} and offset {offset} must not be negative")
    count = math.prod(shape)
    first = offset // 4
    words = raw_words(seed, first, (offset + count + 3) // 4 - first)
    uniform = (words.astype(np.float64) + 0.5) / 2.0**32
    radius = np.sqrt(-2.0 * np.log(uniform[:, 0::2]))  # uniforms are never 0, so this is finite
    angle = 2.0 * np.pi * uniform[:, 1::2]
    normals = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=2).reshape(-1)
    start = offset - 4 * first
    return normals[start : start + count].astype(np.float32).reshape(shape)
