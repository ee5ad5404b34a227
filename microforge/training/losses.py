"""Loss terms of the stages, pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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


def weighted_velocity(velocity: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """``E[w(t) ||v - v*||^2]`` per latent number; velocity and target (B, C, h, w), weight (B,)."""
    error = (velocity.float() - target).square().mean((1, 2, 3))
    return (weight * error).sum() / weight.sum()
