"""Weights that INT8 represents without loss: every row is a scale times whole numbers from -127 to 127.

All three targets store a matrix as int8 with one scale per output channel, ``max|w| / 127`` (``onnx_quantizer.per_channel``,
XNNPACK's quantizer, coremltools' linear symmetric mode). A network that was rounded to that grid is not changed by
quantization. Only activation error remains; fp32 and INT8 weights give the same images.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

#: Modules whose weights targets store in INT8; the first axis of the weight is the output channel, or the row of a table.
ROUNDED = (nn.Linear, nn.Conv2d, nn.Embedding)
#: The largest magnitude of an int8 value in a symmetric grid.
LEVELS = 127


def row_scales(weight: Tensor) -> Tensor:
    """The scale (O, 1, ...) of each row of ``weight`` (O, ...); 1 for a row of zeros."""
    scale = weight.abs().flatten(1).amax(1) / LEVELS  # (O,)
    return torch.where(scale == 0.0, 1.0, scale).reshape(-1, *[1] * (weight.ndim - 1))


def levels(weight: Tensor, scales: Tensor) -> Tensor:
    """``weight`` in whole multiples of ``scales``, from -127 to 127, as floats."""
    return (weight / scales).round().clamp(-LEVELS, LEVELS)


def rounded(weight: Tensor) -> Tensor:
    """``weight`` (O, ...) rounded to the grid of each output channel; a channel of zeros is unchanged.

    The scale is computed from half-precision weights, so that a checkpoint stored as fp16 has the same grid.
    """
    scales = row_scales(weight.half().float())
    return levels(weight, scales) * scales


@torch.no_grad()
def on_int8_grid(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with the weights of all ``ROUNDED`` modules on their grid; other parameters are unchanged."""
    result = copy.deepcopy(module)
    for part in result.modules():
        if isinstance(part, ROUNDED):
            part.weight.copy_(rounded(part.weight))
    return result
