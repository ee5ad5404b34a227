"""Portable noise: the known answers of Random123, and the golden vectors that every language replays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microforge.errors import SpecError
from microforge.noise import NOISE_NAME, philox4x32, raw_words, standard_normal

FIXTURE: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "noise.json").read_text(encoding="utf-8")
)


def _words(text: str) -> list[int]:
    return [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]


def _bits(values: np.ndarray) -> list[str]:
    return [f"{bits:08x}" for bits in values.view(np.uint32).tolist()]


@pytest.mark.parametrize("case", FIXTURE["philox"], ids=lambda case: case["key"])
def test_philox_gives_the_known_answers_of_random123(case: dict[str, str]) -> None:
    counter = np.array([_words(case["counter"])], dtype=np.uint32)
    low, high = _words(case["key"])
    assert philox4x32(counter, (low, high))[0].tolist() == _words(case["words"])


@pytest.mark.parametrize("case", FIXTURE["cases"], ids=lambda case: f"{case['seed']}+{case['offset']}")
def test_golden_vectors_replay(case: dict[str, Any]) -> None:
    seed, offset, first = int(case["seed"]), int(case["offset"]), int(case["first_block"])
    words = raw_words(seed, first, len(case["words"]))
    assert words.tolist() == [_words(row) for row in case["words"]]
    normals = standard_normal(seed, (case["count"],), offset)
    golden = np.array([int(bits, 16) for bits in case["float32_bits"]], dtype=np.uint32).view(np.float32)
    np.testing.assert_array_max_ulp(normals, golden, maxulp=1)
    assert golden.tolist() == case["values"]


def test_a_latent_is_filled_in_channel_row_column_order() -> None:
    golden = FIXTURE["latent"]
    latent = standard_normal(int(golden["seed"]), tuple(golden["shape"]))
    assert _bits(latent[0, 0, :4]) == golden["first"]
    assert _bits(latent[-1, -1, -4:]) == golden["last"]
    assert latent.astype(np.float64).sum() == pytest.approx(golden["sum"])
    assert (latent.astype(np.float64) ** 2).sum() == pytest.approx(golden["sum_of_squares"])
    assert FIXTURE["noise"] == NOISE_NAME


def test_an_offset_continues_the_same_sequence() -> None:
    whole = standard_normal(2**40 + 3, (64,))
    for offset in range(9):
        np.testing.assert_array_equal(standard_normal(2**40 + 3, (11,), offset), whole[offset : offset + 11])


def test_noise_is_standard_normal_and_seeds_differ() -> None:
    a, b = standard_normal(3, (100_000,)), standard_normal(4, (100_000,))
    assert a.dtype == np.float32
    assert abs(a.mean()) < 0.02 and abs(a.std() - 1) < 0.02 and abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert standard_normal(0, (0, 3)).shape == (0, 3)
    assert standard_normal(0, ()).shape == ()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(SpecError, match="allowed: 0 to 18446744073709551615"):
        standard_normal(seed, (4,))


def test_a_negative_offset_is_refused() -> None:
    with pytest.raises(SpecError, match="offset -1"):
        standard_normal(0, (4,), -1)
