"""Conversion of images between uint8, as files and worker processes hold them, and float32, as networks take them."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Convert images (..., 3, H, W) in [0, 1] to uint8, rounded; values outside [0, 1] are clipped."""
    return images.clamp(0.0, 1.0).mul(255.0).round_().to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """Convert uint8 images (..., 3, H, W) to float32 in [0, 1]."""
    return pixels.float().div_(255.0)
