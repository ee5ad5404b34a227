"""Weights on the INT8 grid are what every target's quantizer makes of them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from microforge.training.distillation.int8_grid import on_int8_grid, rounded
from microforge_export.quantization.onnx_quantizer import per_channel


@given(st.integers(0, 10_000), st.floats(1e-3, 10.0), st.integers(1, 5), st.integers(1, 40))
def test_rounded_weights_are_quantized_without_loss_also_after_half_precision(
    seed: int, size: float, rows: int, columns: int
) -> None:
    weight = size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    grid = rounded(weight)
    values, scale = per_channel(grid.numpy(), 0)
    assert np.allclose(values * scale[:, None], grid.numpy(), rtol=2e-6, atol=1e-9)
    after, half_scale = per_channel(grid.half().float().numpy(), 0)
    assert np.array_equal(after, values) and np.array_equal(half_scale, scale)


def test_rounded_weights_are_at_most_half_a_level_away() -> None:
    weight = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    level = weight.abs().flatten(1).amax(1) / 127
    assert bool(((rounded(weight) - weight).abs().flatten(1).amax(1) <= 0.6 * level).all())
    assert torch.equal(rounded(torch.zeros(2, 4)), torch.zeros(2, 4))


def test_a_module_on_the_grid_keeps_its_norms_biases_and_the_original() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3), nn.Conv2d(3, 2, 3), nn.Embedding(4, 6))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    after = on_int8_grid(module).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "2.weight", "3.weight"}
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
