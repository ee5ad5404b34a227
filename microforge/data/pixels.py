"""Images between 8 bits, as files and worker processes hold them, and float32, as networks do."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Images (..., 3, H, W) rounded to uint8; values outside [0, 1] are cut off."""
    return images.clamp(0.0, 1.0).mul(255.0).round_().to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) as float32 in [0, 1]."""
    return pixels.float().div_(255.0)
