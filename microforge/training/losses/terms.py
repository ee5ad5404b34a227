"""Loss terms of the stages, pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from microforge.sampling import MEAN_LOSS_WEIGHT


def gradient_l1(image: Tensor, target: Tensor) -> Tensor:
    """L1 between horizontal and vertical differences of two images (B, 3, H, W): sharp edges."""
    rows = (image.diff(dim=2) - target.diff(dim=2)).abs().mean()
    columns = (image.diff(dim=3) - target.diff(dim=3)).abs().mean()
    return rows + columns


def pooled_l1(image: Tensor, target: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """L1 of average-pooled images, summed over pool ``sizes`` in pixels.

    Without it a flat background takes ten times as long to reach its colour (SPEC section 11).
    """
    difference = image - target
    terms = [F.avg_pool2d(difference, size).abs().mean() for size in sizes if size <= difference.shape[-1]]
    return torch.stack(terms).sum()


def fft_l1(image: Tensor, target: Tensor) -> Tensor:
    """L1 between the magnitudes of two images' spectra, (B, 3, H, W): the fine detail that a blur loses.

    Magnitudes say how much of each frequency there is, not where: the term cannot see a circular shift or a
    180 degree turn, so it only stands beside a loss that can. The transform is orthonormal, so that white noise
    weighs the same at every image size, and runs in float32 under autocast too: in bfloat16 the constant
    part of an image would drown its details.
    """
    with torch.autocast(image.device.type, enabled=False):
        one, two = (torch.fft.rfft2(x.float(), norm="ortho").abs() for x in (image, target))
        difference: Tensor = one - two
        return difference.abs().mean()


@torch.no_grad()
def mean_psnr(image: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, the mean over images (B, 3, H, W) whose range is [0, 1]: for the log."""
    error = (image.clamp(0, 1) - target).square().mean((1, 2, 3))
    decibels: Tensor = -10.0 * torch.log10(error + 1e-10)
    return decibels.mean()


def weighted_velocity(velocity: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """``E[w(t) ||v - v*||^2] / E[w]`` per latent number; velocity and target (B, C, h, w), weight w(t) (B,).

    Divided by the expected weight, not by the batch's own: the mean over the pieces of a batch is then that of
    the whole batch.
    """
    error = (velocity.float() - target).square().mean((1, 2, 3))
    return (weight * error).mean() / MEAN_LOSS_WEIGHT
