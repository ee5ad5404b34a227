"""Golden vectors of the portable noise: Philox words, normals and a whole latent."""

from __future__ import annotations

from typing import Any

import numpy as np

from microforge.noise import NOISE_NAME, philox4x32, raw_words, standard_normal
from microforge_runtimes.sampler import Floats

_DESCRIPTION = (
    "Portable noise: Philox-4x32-10 + Box-Muller. seed, offset and first_block are decimal strings (64 bit). "
    "words: one string of four 32-bit words (hex) per block. float32_bits: the normals' IEEE-754 bits (hex); a language "
    "whose log, sin or cos differ in the last bit of a double may differ by one unit in the last float32 place."
)
#: Counter and key of the known answers of Random123 (kat_vectors, philox4x32 10 rounds).
_KNOWN = (
    ("0" * 32, "0" * 16),
    ("f" * 32, "f" * 16),
    ("243f6a8885a308d313198a2e03707344", "a4093822299f31d0"),
)
#: (seed, offset, count): the ends of 64 bits, a block that starts in its middle, a block index beyond 32 bits.
_CASES = (
    (0, 0, 16), (1, 0, 16), (42, 0, 16), (42, 3, 10), (7, 17179869176, 16), (2**32, 0, 16), (2**32 + 5, 0, 16),
    (1234567890123456789, 0, 16), (2**64 - 1, 0, 16), (2**63, 4_000_000, 64),
)  # fmt: skip
_LATENT_SEED, _LATENT_SHAPE = 2026, (1, 16, 8, 8)


def noise_values() -> dict[str, Any]:
    """Everything that ``noise.json`` holds."""
    return {
        "description": _DESCRIPTION,
        "noise": NOISE_NAME,
        "philox": [
            {"counter": counter, "key": key, "words": _known(counter, key)} for counter, key in _KNOWN
        ],
        "cases": [_case(*case) for case in _CASES],
        "latent": {
            "seed": str(_LATENT_SEED),
            "shape": list(_LATENT_SHAPE),
            "float32_bits": _bits(standard_normal(_LATENT_SEED, _LATENT_SHAPE)),
        },
    }


def _known(counter: str, key: str) -> str:
    rows = np.array([_words(counter)], np.uint32)
    low, high = _words(key)
    return _hex(philox4x32(rows, (low, high))[0].tolist())


def _case(seed: int, offset: int, count: int) -> dict[str, Any]:
    first = offset // 4
    words = raw_words(seed, first, (offset + count + 3) // 4 - first)
    return {
        "seed": str(seed),
        "offset": str(offset),
        "count": count,
        "first_block": str(first),
        "words": [_hex(row) for row in words.tolist()],
        "float32_bits": _bits(standard_normal(seed, (count,), offset)),
    }


def _words(text: str) -> list[int]:
    return [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]


def _hex(words: list[int]) -> str:
    return "".join(f"{word:08x}" for word in words)


def _bits(values: Floats) -> list[str]:
    return [f"{bits:08x}" for bits in values.reshape(-1).view(np.uint32).tolist()]
