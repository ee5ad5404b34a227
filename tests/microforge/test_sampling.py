import pytest
import torch
from torch import Tensor

from microforge import sampling


def _oracle() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z0, noise = (torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return z0, noise


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_integrate_with_the_oracle_velocity_returns_the_image(steps: int) -> None:
    z0, noise = _oracle()
    end = sampling.integrate(
        lambda z, t: sampling.velocity_target(z0, noise), noise, sampling.uniform_grid(steps)
    )
    assert (end - z0).abs().max() < 1e-12


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_integrate_with_the_opposite_sign_does_not(steps: int) -> None:
    z0, noise = _oracle()
    end = sampling.integrate(lambda z, t: z0 - noise, noise, sampling.uniform_grid(steps))
    assert (end - z0).abs().max() > 1.0


def test_interpolate_runs_from_image_to_noise() -> None:
    z0, noise = _oracle()
    assert torch.equal(sampling.interpolate(z0, noise, torch.zeros(2, dtype=torch.float64)), z0)
    assert torch.equal(sampling.interpolate(z0, noise, torch.ones(2, dtype=torch.float64)), noise)


def test_guided_is_off_at_one_and_empty_at_zero() -> None:
    conditional, empty = _oracle()
    assert torch.allclose(sampling.guided(conditional, empty, 1.0), conditional)
    assert torch.equal(sampling.guided(conditional, empty, 0.0), empty)


def test_guided_edit_with_equal_scales_ignores_the_middle_branch() -> None:
    full, empty = _oracle()
    anything = torch.full_like(full, 7.0)
    result = sampling.guided_edit(full, anything, empty, 2.0, 2.0)
    assert torch.allclose(result, sampling.guided(full, empty, 2.0))


def test_loss_weight_is_one_in_the_middle_and_half_at_the_ends() -> None:
    weight = sampling.loss_weight(torch.tensor([0.0, 0.5, 1.0]))
    assert weight.tolist() == [0.5, 1.0, 0.5]


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shifted_time_keeps_the_ends_and_moves_the_middle_towards_noise(shift: float) -> None:
    t = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    moved = sampling.shifted_time(t, shift)
    assert moved[0] == 0.0 and moved[-1] == 1.0
    assert moved[2] == pytest.approx(shift / (1.0 + shift)), "half of the times lie above s / (1 + s)"
    assert bool((moved.diff() > 0).all())
    assert torch.allclose(sampling.shifted_time(moved, 1.0 / shift), t), "the inverse is the shift's inverse"


def test_uniform_grid_refuses_no_steps() -> None:
    with pytest.raises(ValueError, match="allowed"):
        sampling.uniform_grid(0)


def test_integrate_reports_every_step() -> None:
    z0, noise = _oracle()
    seen: list[tuple[int, int]] = []
    sampling.integrate(
        lambda z, t: noise - z0,
        noise,
        sampling.uniform_grid(3),
        lambda step, steps, z: seen.append((step, steps)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
