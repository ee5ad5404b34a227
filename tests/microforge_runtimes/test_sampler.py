"""The sampling rules: signs, guidance and step counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from microforge.bundle.manifest import Guidance, Latent, Sampler
from microforge.errors import BundleError, GenerationError
from microforge_runtimes.sampler import (
    allowed_steps,
    denormalize,
    euler_step,
    guided_velocity,
    text_scale,
    timesteps,
    to_pixels,
)

RANDOM = np.random.default_rng(0)


def _floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def _sampler(steps: int, folded: bool) -> Sampler:
    grid = tuple(1.0 - i / steps for i in range(steps + 1))
    return Sampler(
        timesteps=grid, guidance="folded" if folded else Guidance(text=3.5, image=1.5), prediction="velocity"
    )


@pytest.mark.parametrize("steps", [1, 4, 50])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_oracle_velocity_returns_the_clean_latent_and_the_other_sign_does_not(
    steps: int, sign: int
) -> None:
    clean, noise = _floats(1, 4, 2, 3), _floats(1, 4, 2, 3)
    z, grid = noise, _sampler(steps, True).timesteps
    for t, t_next in itertools.pairwise(grid):
        z = euler_step(z, sign * (noise - clean), t, t_next)
    assert z.dtype == np.float32
    assert (np.abs(z - clean).max() < 1e-5) == (sign == 1)


def test_guidance_one_is_off_and_zero_is_the_empty_prompt() -> None:
    conditional, empty = _floats(1, 2, 2, 2), _floats(1, 2, 2, 2)
    np.testing.assert_allclose(guided_velocity(conditional, empty, 1.0), conditional, atol=1e-6)
    np.testing.assert_array_equal(guided_velocity(conditional, empty, 0.0), empty)
    np.testing.assert_allclose(
        guided_velocity(conditional, empty, 3.0), 3 * conditional - 2 * empty, atol=1e-5
    )


def test_guidance_is_one_when_folded() -> None:
    assert text_scale(_sampler(4, True)) == 1.0
    assert text_scale(_sampler(4, False)) == 3.5


def test_a_distilled_grid_runs_only_whole_and_a_teacher_grid_in_its_divisors() -> None:
    assert allowed_steps(_sampler(4, True)) == (4,)
    assert allowed_steps(_sampler(12, False)) == (12, 6, 4, 3, 2, 1)
    assert timesteps(_sampler(4, False), 2) == (1.0, 0.5, 0.0)
    assert timesteps(_sampler(4, True)) == (1.0, 0.75, 0.5, 0.25, 0.0)
    for count in (0, 3, 8, -1):
        with pytest.raises(BundleError, match=f"steps is {count}; this bundle allows: 4, 2, 1"):
            timesteps(_sampler(4, False), count)


def test_denormalize_is_per_channel() -> None:
    latent = Latent(channels=2, downsample=32, mean=(1.0, -1.0), std=(2.0, 0.5))
    out = denormalize(np.ones((1, 2, 1, 1), np.float32), latent)
    assert out.ravel().tolist() == [3.0, -0.5] and out.dtype == np.float32


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
