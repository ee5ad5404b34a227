"""Weights that INT8 stores without loss: every row is a scale times whole numbers from -127 to 127.

All three targets keep a matrix as int8 with one scale per output channel, ``max|w| / 127`` (``quantize.per_channel``,
XNNPACK's quantizer, coremltools' linear symmetric mode). A network that was rounded to that grid once is rounded to
itself when it is quantized, so what is left of INT8's error is that of activations. Its own images are those that
INT8 weights would have given; floating point and INT8 then agree about them.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

#: Modules whose weights targets store in INT8; their first axis runs over output channels, or rows of a table.
ROUNDED = (nn.Linear, nn.Conv2d, nn.Embedding)
#: The largest magnitude of an int8 value in a symmetric grid.
LEVELS = 127


def row_scales(weight: Tensor) -> Tensor:
    """The scale of each row of ``weight`` (O, ...), as (O, 1, ...); of a row of zeros 1."""
    scale = weight.abs().flatten(1).amax(1) / LEVELS  # (O,)
    return torch.where(scale == 0.0, 1.0, scale).reshape(-1, *[1] * (weight.ndim - 1))


def levels(weight: Tensor, scales: Tensor) -> Tensor:
    """``weight`` in whole numbers of ``scales``, from -127 to 127, still floats."""
    return (weight / scales).round().clamp(-LEVELS, LEVELS)


def rounded(weight: Tensor) -> Tensor:
    """``weight`` (O, ...) on the grid of each output channel; a channel of zeros stays.

    The largest weight of a channel is a number of half precision, so that a checkpoint in fp16 has the same grid.
    """
    scales = row_scales(weight.half().float())
    return levels(weight, scales) * scales


@torch.no_grad()
def on_int8_grid(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with every weight of ``ROUNDED`` modules on its grid; biases, norms and other parameters stay."""
    result = copy.deepcopy(module)
    for part in result.modules():
        if isinstance(part, ROUNDED):
            part.weight.copy_(rounded(part.weight))
    return result
