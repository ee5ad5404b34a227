"""The loss terms' promises: zero for equal images, blind only to what their docs say, safe under autocast."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from microforge.training.losses.perceptual import RandomFeatures
from microforge.training.losses.terms import fft_l1, gradient_l1, mean_psnr, pooled_l1

Loss = Callable[[Tensor, Tensor], Tensor]


def _perceptual(image: Tensor, target: Tensor) -> Tensor:
    distances: Tensor = RandomFeatures()(image, target)
    return distances.mean()


LOSSES: dict[str, Loss] = {
    "gradient": gradient_l1,
    "pooled": lambda image, target: pooled_l1(image, target, (4, 16)),
    "fft": fft_l1,
    "perceptual": _perceptual,
}


def _images(seed: int = 0, size: tuple[int, int] = (32, 48)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one = torch.rand(2, 3, *size, generator=generator)
    return one, (one + 0.1 * torch.randn(one.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_loss_is_zero_for_equal_images_and_grows_with_the_difference(loss: Loss) -> None:
    image, other = _images()
    assert loss(image, image) == 0
    small, large = (loss(image + share * (other - image), image) for share in (0.2, 1.0))
    assert 0 < small < large


def test_losses_are_blind_only_to_what_they_say() -> None:
    image, _ = _images()
    brighter, moved = image + 0.1, image.roll((5, 3), (2, 3))
    assert gradient_l1(brighter, image) < 1e-6, "a constant shift has no gradient"
    assert pooled_l1(brighter, image, (4, 16)) == pytest.approx(0.2, abs=1e-5)
    assert fft_l1(moved, image) < 1e-5, "a circular shift keeps every magnitude"
    assert fft_l1(image.flip(2, 3), image) < 1e-5, "so does half a turn"
    assert fft_l1(brighter, image) > 1e-3
    for name in ("gradient", "pooled", "perceptual"):
        assert LOSSES[name](moved, image) > 1e-2, name


def test_fft_l1_is_the_difference_of_a_waves_amplitudes() -> None:
    side, amplitudes = 32, (0.3, 0.1)
    wave = torch.cos(2 * math.pi * 4 * torch.arange(side) / side).expand(1, 3, side, side)
    # one bin of side * (side / 2 + 1) holds the wave; orthonormal, its magnitude is amplitude * side / 2
    expected = (amplitudes[0] - amplitudes[1]) * side / 2 / (side * (side / 2 + 1))
    assert fft_l1(amplitudes[0] * wave, amplitudes[1] * wave) == pytest.approx(expected, rel=1e-4)


def test_fft_l1_weighs_noise_alike_at_every_size() -> None:
    torch.manual_seed(0)
    values = [
        fft_l1(0.1 * torch.randn(4, 3, side, side), torch.zeros(4, 3, side, side)) for side in (32, 128)
    ]
    assert values[0] == pytest.approx(values[1].item(), rel=0.05)


def test_perceptual_distance_sees_blur_contrast_and_brightness() -> None:
    image, _ = _images(size=(64, 64))
    features = RandomFeatures()
    changed = {
        "blur": torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False),
        "contrast": 0.5 + 0.5 * (image - 0.5),
        "brightness": image + 0.2,
    }
    for name, other in changed.items():
        assert features(other, image).min() > 1e-3, name


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_loss_has_finite_gradients_under_bfloat16_autocast(loss: Loss) -> None:
    image, target = _images()
    flat = torch.zeros_like(image)  # where magnitudes and features are zero, roots have no derivative
    for start in (image, flat, target):
        output = start.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(output, target)
        value.backward()  # type: ignore[no-untyped-call]
        assert value.dtype == torch.float32
        assert output.grad is not None and bool(output.grad.isfinite().all())


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_loss_of_a_batch_is_the_mean_of_its_pieces(loss: Loss) -> None:
    image, target = _images()
    pieces = torch.stack([loss(image[i : i + 1], target[i : i + 1]) for i in range(2)])
    assert loss(image, target) == pytest.approx(pieces.mean().item(), rel=1e-5)


def test_mean_psnr_is_twenty_decibels_for_a_tenth_off() -> None:
    target = torch.full((2, 3, 8, 8), 0.5)
    assert mean_psnr(target + 0.1, target) == pytest.approx(20.0, abs=1e-4)
