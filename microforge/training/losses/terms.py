"""Loss terms of the stages: pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from microforge.sampling import MEAN_LOSS_WEIGHT


def gradient_l1(image: Tensor, target: Tensor) -> Tensor:
    """L1 between the horizontal and vertical gradients of two images (B, 3, H, W): sharpens edges."""
    rows = (image.diff(dim=2) - target.diff(dim=2)).abs().mean()
    columns = (image.diff(dim=3) - target.diff(dim=3)).abs().mean()
    return rows + columns


def pooled_l1(image: Tensor, target: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """L1 of average-pooled images (B, 3, H, W), summed over the pool ``sizes`` in pixels.

    Without it the colour of a flat background takes ten times as long to converge (SPEC section 11).
    """
    difference = image - target
    terms = [F.avg_pool2d(difference, size).abs().mean() for size in sizes if size <= difference.shape[-1]]
    return torch.stack(terms).sum()


def fft_l1(image: Tensor, target: Tensor) -> Tensor:
    """L1 between the spectrum magnitudes of two images (B, 3, H, W): the fine detail that blurring removes.

    Magnitudes do not encode position (a circular shift or a rotation by 180 degrees changes nothing), so this term needs
    another loss beside it. The transform is orthonormal, so that white noise weighs the same at every image size, and runs
    in float32 even under autocast: in bfloat16 the mean of an image would hide its details.
    """
    with torch.autocast(image.device.type, enabled=False):
        one, two = (torch.fft.rfft2(x.float(), norm="ortho").abs() for x in (image, target))
        difference: Tensor = one - two
        return difference.abs().mean()


@torch.no_grad()
def mean_psnr(image: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, averaged over images (B, 3, H, W) in [0, 1]; for the log."""
    error = (image.clamp(0, 1) - target).square().mean((1, 2, 3))
    decibels: Tensor = -10.0 * torch.log10(error + 1e-10)
    return decibels.mean()


def weighted_velocity(velocity: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """``E[w(t) ||v - v*||^2] / E[w]`` per latent element; velocity and target (B, C, h, w), weight w(t) (B,).

    Divided by the expected weight instead of the batch's, so that the mean over the pieces of a batch equals that of the
    whole batch.
    """
    error = (velocity.float() - target).square().mean((1, 2, 3))
    return (weight * error).mean() / MEAN_LOSS_WEIGHT
