"""The table-driven sampler: the old Euler loop as a table, multi-step tables, starts, previews, bit-exact sums."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.bundle.reference_model import table
from microforge.bundle.sampling import LatentSpace, Preview, SamplerRow, SamplerTable
from microforge.errors import BundleError, GenerationError
from microforge.noise import standard_normal
from microforge_runtimes.sampler import (
    Step,
    advance,
    at_level,
    choose_table,
    denormalize,
    normalize,
    preview_pixels,
    sample,
    to_pixels,
    weighted_sum,
)

RANDOM = np.random.default_rng(0)
STUDENT = (1.0, 0.75, 0.5, 0.25, 0.0)


def _floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def _grid(steps: int) -> tuple[float, ...]:
    return tuple(1.0 - i / steps for i in range(steps + 1))


def _no_noise(index: int) -> np.ndarray:
    raise AssertionError(f"noise {index} was drawn")


def _slope(latent: np.ndarray, time: float) -> np.ndarray:
    """A network that is not linear in its input."""
    return np.tanh(latent + time) * (1.0 + time)


def _old_euler(latent: np.ndarray, grid: tuple[float, ...]) -> np.ndarray:
    """The loop of version 1: the difference of times in double, then float32 arithmetic where the latent is float32."""
    for t, t_next in itertools.pairwise(grid):
        latent = latent + latent.dtype.type(t_next - t) * _slope(latent, t).astype(latent.dtype)
    return latent


def test_the_students_table_is_the_old_euler_loop_in_double_precision() -> None:
    start = RANDOM.standard_normal((1, 4, 2, 3))
    latent = start
    for row, time in zip(table(STUDENT).rows, table(STUDENT).times, strict=True):
        terms = [*zip(row.u, [latent], strict=True), *zip(row.m, [_slope(latent, time)], strict=True)]
        latent = np.add.reduce([weight * value for weight, value in terms])
    np.testing.assert_array_equal(latent, _old_euler(start, STUDENT))


@pytest.mark.parametrize(("grid", "units"), [(STUDENT, 0), (_grid(1), 0), (_grid(32), 0), (_grid(7), 2)])
def test_float32_tables_stay_within_rounding_of_the_old_loop_at_every_step(
    grid: tuple[float, ...], units: int
) -> None:
    """The old loop rounded three times: the factor, the product, the sum; factors of powers of two are exact."""
    entry, latent = table(grid), _floats(1, 16, 8, 8)
    for index, (t, t_next) in enumerate(itertools.pairwise(grid)):
        slope = _slope(latent, t).astype(np.float32)
        old, new = latent + np.float32(t_next - t) * slope, advance(entry.rows[index], [latent], [slope])
        assert new.dtype == np.float32
        # Near a zero the terms cancel: a unit is then one of the larger term.
        unit = np.spacing(
            np.maximum(np.maximum(np.abs(old), np.abs(latent)), np.abs(slope) * abs(t_next - t))
        )
        assert (np.abs(old.astype(np.float64) - new) <= units * unit).all()
        latent = old


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_the_oracle_output_returns_the_clean_latent(steps: int) -> None:
    clean, noise = _floats(1, 4, 2, 3), _floats(1, 4, 2, 3)
    latent = sample(table(_grid(steps)), lambda u, t: (noise - clean, {}), noise, _no_noise)
    np.testing.assert_allclose(latent, clean, atol=1e-5)


def test_sums_are_taken_in_double_in_the_tables_order_and_rounded_once() -> None:
    big, small = np.full(3, 1e8, np.float32), np.full(3, 1.0, np.float32)
    row = SamplerRow(u=(1.0, -1.0), m=(1.0,))
    assert advance(row, [big, big], [small]).tolist() == [1.0] * 3, "float32 sums lose it"
    third = weighted_sum([(1 / 3, np.full(1, 3.0, np.float32)), (0.1, np.full(1, 1.0, np.float32))])
    assert third[0] == np.float32(np.float64(1 / 3) * 3.0 + np.float64(0.1))


def test_a_multi_step_table_sees_its_own_inputs_and_outputs_newest_first() -> None:
    rows = (SamplerRow(u=(1.0,), m=(0.5,)), SamplerRow(u=(2.0, 3.0), m=(5.0, 7.0)))
    entry = SamplerTable(steps=2, times=(10.0, 20.0), first=1.0, rows=rows)
    seen: list[tuple[float, float]] = []

    def network(u: np.ndarray, time: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        seen.append((float(u[0]), time))
        return np.full(1, time, np.float32), {}

    latent = sample(entry, network, np.ones(1, np.float32), _no_noise)
    assert seen == [(1.0, 10.0), (6.0, 20.0)]
    assert latent.tolist() == [2 * 6 + 3 * 1 + 5 * 20 + 7 * 10]


def test_step_noise_has_its_place_in_the_seeds_stream_whatever_the_coefficients_are() -> None:
    shape = (1, 2, 2, 3)
    rows = tuple(SamplerRow(u=(0.0,), m=(), noise=noise) for noise in (1.0, 0.0, 1.0))
    entry = SamplerTable(steps=3, times=(1.0, 1.0, 1.0), first=1.0, rows=rows)
    drawn: list[int] = []

    def noise(index: int) -> np.ndarray:
        drawn.append(index)
        return standard_normal(3, shape, index * 12)

    latent = sample(entry, lambda u, t: (u, {}), standard_normal(3, shape), noise)
    assert drawn == [1, 3]
    np.testing.assert_array_equal(latent.ravel(), standard_normal(3, (48,))[36:])


def test_a_count_and_a_strength_choose_a_table_and_its_first_row() -> None:
    tables = (table(_grid(4)), table(_grid(2)))
    assert choose_table(tables) == (tables[0], 0) and choose_table(tables, 2) == (tables[1], 0)
    rows = {strength: choose_table(tables, None, strength)[1] for strength in (0.01, 0.25, 0.5, 0.75, 1.0)}
    assert rows == {0.01: 3, 0.25: 3, 0.5: 2, 0.75: 1, 1.0: 0}
    with pytest.raises(BundleError, match="steps is 3; this bundle allows: 4, 2"):
        choose_table(tables, 3)
    own = SamplerTable(
        steps=4, strength=0.6, times=(0.6,), first=0.0, rows=(SamplerRow(u=(1.0,), m=(-0.6,)),)
    )
    assert choose_table((*tables, own), 4, 0.5) == (own, 0) and choose_table((*tables, own), 4) == (
        tables[0],
        0,
    )


def test_rows_that_reach_back_are_no_place_to_start() -> None:
    level = (0.5, 0.5)
    rows = tuple(
        SamplerRow(u=(1.0,), m=(1.0,) * min(count, index + 1), level=level)
        for index, count in enumerate((1, 2, 2, 1))
    )
    assert SamplerTable(steps=4, times=(1.0,) * 4, first=1.0, rows=rows).starts() == (0, 3)
    with pytest.raises(ValueError, match="uses evaluations before the first one"):
        SamplerTable(steps=1, times=(1.0,), first=1.0, rows=(SamplerRow(u=(1.0, 1.0), m=()),))


def test_a_level_is_clean_latent_and_noise_with_every_operation_in_float32() -> None:
    clean, noise = _floats(1, 4, 8, 8), _floats(1, 4, 8, 8)
    np.testing.assert_array_equal(at_level((1.0, 0.0), clean, noise), clean)
    np.testing.assert_array_equal(at_level((0.0, 1.0), clean, noise), noise)
    expected = np.float32(0.3) * clean + np.float32(0.7) * noise
    np.testing.assert_array_equal(at_level((0.3, 0.7), clean, noise), expected)


def test_a_step_predicts_the_clean_latent_and_shows_it() -> None:
    clean, noise = _floats(1, 2, 2, 3), _floats(1, 2, 2, 3)
    matrix = tuple([(1.0, 0.0)] * 4 + [(0.0, 1.0)] * 4 + [(0.0, 0.0)] * 4)
    preview = Preview(patch=2, matrix=matrix, bias=(0.5,) * 12, psnr_db=20.0)
    steps: list[Step] = []
    sample(table(STUDENT), lambda u, t: (noise - clean, {}), noise, _no_noise, 0, None, steps.append, preview)
    assert [(step.index, step.steps, step.time) for step in steps] == [
        (i + 1, 4, STUDENT[i]) for i in range(4)
    ]
    for step in steps:
        np.testing.assert_allclose(step.clean(), clean, atol=1e-5)
        picture = step.preview()
        assert picture is not None and picture.shape == (4, 6, 3)
        np.testing.assert_array_equal(picture[..., 2], 128)
        np.testing.assert_allclose(picture[::2, ::2, 0] / 255, np.clip(clean[0, 0] + 0.5, 0, 1), atol=0.003)
    unfitted: list[Step] = []
    sample(table(STUDENT), lambda u, t: (u, {}), noise, _no_noise, callback=unfitted.append)
    assert unfitted[0].preview() is None


def test_a_preview_puts_colour_row_and_column_in_their_places() -> None:
    matrix = tuple((float(index),) for index in range(12))
    preview = Preview(patch=2, matrix=matrix, bias=(0.0,) * 12, psnr_db=0.0)
    cell = np.full((1, 1, 1, 1), 1 / 255, np.float32)
    assert preview_pixels(preview, cell).tolist() == [[[0, 4, 8], [1, 5, 9]], [[2, 6, 10], [3, 7, 11]]]


@given(st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4))
@settings(max_examples=30)
def test_normalize_undoes_denormalize(values: list[float]) -> None:
    space = LatentSpace(channels=2, downsample=32, mean=(1.0, -1.0), std=(2.0, 0.5))
    latent = np.array(values, np.float32).reshape(1, 2, 1, 2)
    raw = denormalize(latent, space)
    assert raw.dtype == np.float32
    np.testing.assert_allclose(raw[0, 1], latent[0, 1] * 0.5 - 1.0, rtol=1e-6)
    np.testing.assert_allclose(normalize(raw, space), latent, rtol=1e-5, atol=1e-5)


def test_pixels_are_rounded_clipped_and_channels_last() -> None:
    image = np.array([-1.0, 0.5, 2.0], np.float32).reshape(1, 3, 1, 1)
    assert to_pixels(image).tolist() == [[[0, 128, 255]]]
    assert to_pixels(np.zeros((1, 3, 4, 6), np.float32)).shape == (4, 6, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_is_refused_and_not_clipped_to_black(value: float) -> None:
    image = np.zeros((1, 3, 2, 2), np.float32)
    image[0, 1, 0, 1] = value
    with pytest.raises(GenerationError, match="1 of 12 values that are not finite"):
        to_pixels(image)
