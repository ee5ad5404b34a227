"""PSNR and SSIM by their definitions: identities, closed forms, and a direct evaluation."""

from __future__ import annotations

import math

import pytest
import torch

from microforge.data.world.renderer import render
from microforge.data.world.scenes import COLORS, Scene, SceneObject
from microforge.errors import DataError
from microforge.evaluation.metrics import psnr, ssim


def _noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_constant_error() -> None:
    images = _noise(0, 2, 3, 16, 16) * 0.5
    offset = torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert psnr(images + offset, images).tolist() == pytest.approx([20.0, 40.0], abs=1e-4)
    assert psnr(images, images).tolist() == [math.inf, math.inf]


def test_ssim_of_equal_images_is_one_and_symmetric() -> None:
    a, b = _noise(1, 2, 3, 24, 20), _noise(2, 2, 3, 24, 20)
    assert ssim(a, a).tolist() == pytest.approx([1.0, 1.0], abs=1e-12)
    assert torch.equal(ssim(a, b), ssim(b, a))
    assert float(ssim(a, b).max()) < 0.2


def test_ssim_of_flat_images_is_the_luminance_term() -> None:
    a, b = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.6)
    c1 = 0.01**2
    expected = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert float(ssim(a, b)) == pytest.approx(expected, abs=1e-6)


def test_ssim_of_one_window_by_hand() -> None:
    a, b = _noise(3, 1, 1, 11, 11).double(), _noise(4, 1, 1, 11, 11).double()
    r = torch.arange(11.0, dtype=torch.float64) - 5
    w = torch.exp(-(r[:, None] ** 2 + r[None] ** 2) / (2 * 1.5**2))
    w = w / w.sum()
    ma, mb = (w * a[0, 0]).sum(), (w * b[0, 0]).sum()
    va, vb = (w * (a[0, 0] - ma) ** 2).sum(), (w * (b[0, 0] - mb) ** 2).sum()
    cov = (w * (a[0, 0] - ma) * (b[0, 0] - mb)).sum()
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert float(ssim(a, b)) == pytest.approx(float(expected), abs=1e-12)


def test_blur_costs_more_than_a_shift_of_brightness() -> None:
    item = SceneObject("star", "blue", "large", 0.5, 0.5, 0.24, COLORS["blue"])
    image = render([Scene("white", COLORS["white"], (item,), "single", None)], 64, 64)
    blurred = torch.nn.functional.avg_pool2d(image, 5, 1, 2, count_include_pad=False)
    darker = image - (blurred - image).square().mean().sqrt()  # the same PSNR
    assert float(psnr(blurred, image)) == pytest.approx(float(psnr(darker, image)), abs=0.01)
    assert float(ssim(blurred, image)) < float(ssim(darker, image)) - 0.05


def test_unlike_or_tiny_images_are_refused() -> None:
    with pytest.raises(DataError, match="one shape"):
        psnr(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))
    with pytest.raises(DataError, match="11 px"):
        ssim(torch.zeros(1, 3, 8, 16), torch.zeros(1, 3, 8, 16))
