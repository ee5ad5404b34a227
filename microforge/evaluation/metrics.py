"""Image similarity metrics: PSNR, and SSIM as defined by Wang et al. (2004).

Letters: B images, H W height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from microforge.errors import DataError

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image.

    Args:
        images: (B, 3, H, W) in [0, 1].
        references: (B, 3, H, W) in [0, 1].

    Returns:
        (B,), infinite where two images are equal.

    Raises:
        DataError: when the shapes differ.
    """
    _check(images, references)
    error = (images.double() - references.double()).square().mean((1, 2, 3))
    return -10.0 * torch.log10(error)


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity of each image, in its standard form.

    The window is Gaussian, 11 x 11 with sigma 1.5, and K = (0.01, 0.03). Statistics are those of a population. Colour
    channels are averaged, as are all positions where the window fits.

    Args:
        images: (B, C, H, W) in [0, 1], at least 11 px per side.
        references: (B, C, H, W) in [0, 1].

    Returns:
        (B,), 1 where two images are equal.

    Raises:
        DataError: when the shapes differ, or the images are smaller than the window.
    """
    _check(images, references)
    if min(images.shape[2:]) < _WINDOW:
        raise DataError(f"SSIM needs images of at least {_WINDOW} px per side, got {tuple(images.shape[2:])}")
    x, y = images.double(), references.double()
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x = _blurred(x * x) - mean_x.square()
    var_y = _blurred(y * y) - mean_y.square()
    cov = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    structure = (2 * cov + _C2) / (var_x + var_y + _C2)
    return (luminance * structure).mean((1, 2, 3))


def _check(images: Tensor, references: Tensor) -> None:
    if images.shape != references.shape or images.ndim != 4:
        raise DataError(
            f"two batches (B, C, H, W) of one shape are needed, got {tuple(images.shape)} and {tuple(references.shape)}"
        )


def _blurred(x: Tensor) -> Tensor:
    """Gaussian-weighted mean (B, C, H - 10, W - 10) at every position where the window fits."""
    offsets = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    weights = (weights / weights.sum()).reshape(1, 1, -1, 1)
    planes = x.flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, weights), weights.transpose(2, 3))
    return planes.reshape(*x.shape[:2], *planes.shape[2:])
