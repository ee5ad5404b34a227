"""KID by its definition, and what an unbiased estimate of a distance between distributions must do."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from microforge.data.world.captions import evaluation_prompts
from microforge.errors import DataError
from microforge.evaluation.classifier import load_classifier
from microforge.evaluation.classifier_training import gaussian_blur
from microforge.evaluation.generation import to_float_images, true_renders
from microforge.evaluation.kid import Kid, kid, squared_mmd


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _kernel(x: Tensor, y: Tensor) -> float:
    return (sum(float(a) * float(b) for a, b in zip(x, y, strict=True)) / len(x) + 1.0) ** 3


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("paired", [False, True])
def test_squared_mmd_equals_its_definition_pair_by_pair(paired: bool) -> None:
    x, y = _normal(0, 6, 3), _normal(1, 6 if paired else 5, 3) + 0.3
    one = _mean([_kernel(x[i], x[j]) for i in range(6) for j in range(6) if i != j])
    two = _mean([_kernel(y[i], y[j]) for i in range(len(y)) for j in range(len(y)) if i != j])
    mixed = _mean([
        _kernel(x[i], y[j]) for i in range(6) for j in range(len(y)) if not (paired and i == j)
    ])  # fmt: skip
    assert squared_mmd(x, y, paired=paired) == pytest.approx(one + two - 2 * mixed, abs=1e-12)


def test_many_rows_give_the_same_as_one_block_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = _normal(2, 23, 4), _normal(3, 30, 4)
    whole = squared_mmd(x, y)
    monkeypatch.setattr("microforge.evaluation.kid._ROWS", 7)
    assert squared_mmd(x, y) == pytest.approx(whole, rel=1e-12)


def test_the_value_is_the_mean_over_ways_to_cut_the_sample() -> None:
    x, y = _normal(4, 4, 2), _normal(5, 4, 2)
    halves = [([0, 1], [2, 3]), ([0, 2], [1, 3]), ([0, 3], [1, 2])]
    cuts = [squared_mmd(x[part], y[part], paired=True) for cut in halves for part in cut]
    assert kid(x, y, paired=True).value == pytest.approx(_mean(cuts), abs=1e-12)


@given(
    n=st.integers(2, 40), m=st.integers(2, 40), width=st.integers(1, 8), seed=st.integers(0, 2**32),
    paired=st.booleans(),
)  # fmt: skip
def test_the_distance_is_symmetric(n: int, m: int, width: int, seed: int, paired: bool) -> None:
    x, y = _normal(seed, n, width), _normal(seed + 1, n if paired else m, width) * 2.0
    assert squared_mmd(x, y, paired=paired) == pytest.approx(
        squared_mmd(y, x, paired=paired), rel=1e-9, abs=1e-7
    )


def test_two_samples_of_one_distribution_are_about_zero_apart_on_either_side() -> None:
    distances = [kid(_normal(2 * i, 200, 16), _normal(2 * i + 1, 200, 16)) for i in range(20)]
    assert all(abs(one.value) < 3 * _stderr(one) for one in distances)
    assert min(one.value for one in distances) < 0 < max(one.value for one in distances)
    spread = torch.tensor([one.value for one in distances]).std()
    assert float(spread) < _mean([_stderr(one) for one in distances]), "the error bar is on the safe side"


def test_the_error_bar_of_a_real_distance_is_honest() -> None:
    distances = [kid(_normal(2 * i, 200, 4) + 0.5, _normal(2 * i + 1, 200, 4)) for i in range(40)]
    spread = float(torch.tensor([one.value for one in distances]).std())
    assert 0.7 * spread < _mean([_stderr(one) for one in distances]) < 1.6 * spread


def test_pairs_that_belong_together_do_not_pull_the_distance_down() -> None:
    shared = 2.0 * _normal(7, 400, 8)  # what both images of a prompt have in common
    x, y = shared + _normal(8, 400, 8), shared + _normal(9, 400, 8)
    right, naive = kid(x, y, paired=True), kid(x, y)
    assert abs(right.value) < 3 * _stderr(right)
    assert naive.value < right.value - 0.05


@pytest.mark.parametrize(
    "damage",
    [
        lambda images, amount: gaussian_blur(images, 1.5 * amount),
        lambda images, amount: (images + 0.06 * amount * _normal(0, *images.shape).float()).clamp(0, 1),
    ],
    ids=["blur", "noise"],
)
def test_kid_of_renders_is_zero_and_grows_with_damage(damage: Callable[[Tensor, float], Tensor]) -> None:
    classifier, prompts = load_classifier(), evaluation_prompts(120, 0)
    images, others = (to_float_images(true_renders(96, 96)(prompts, seed)) for seed in (0, 10_000))
    reference = classifier.features(others)
    clean = kid(classifier.features(images), reference, paired=True)
    assert abs(clean.value) < 3 * _stderr(clean)
    levels = [
        clean,
        *(kid(classifier.features(damage(images, a)), reference, paired=True) for a in (1.0, 2.0)),
    ]
    assert levels[0].value < levels[1].value < levels[2].value
    assert levels[2].value > 3 * _stderr(levels[2]) and levels[2].value > 10 * abs(clean.value)


def test_subsets_follow_the_number_of_images() -> None:
    assert [kid(_normal(0, n, 2), _normal(1, n, 2)).subsets for n in (3, 9, 500, 2000)] == [1, 4, 10, 20]
    assert kid(_normal(0, 3, 2), _normal(1, 3, 2)).stderr is None


@pytest.mark.parametrize(
    ("x", "y", "paired", "message"),
    [
        ((1, 4), (5, 4), False, "at least two"),
        ((5, 4), (1, 4), False, "at least two"),
        ((5, 4), (5, 3), False, "one width"),
        ((5,), (5,), False, "one width"),
        ((5, 4), (6, 4), True, "one reference for each"),
    ],
)
def test_samples_that_cannot_be_compared_are_refused(
    x: tuple[int, ...], y: tuple[int, ...], paired: bool, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        kid(torch.zeros(x), torch.zeros(y), paired=paired)


def _stderr(result: Kid) -> float:
    assert result.stderr is not None and math.isfinite(result.stderr)
    return result.stderr
