"""The few layers that the backbone, the planner and the text encoder share.

All of them use operators that lower to one delegate on a phone: batched matrix products over
(B * heads), additive masks, no ``split`` and no in-place updates.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MASKED = -1e4  # finite in fp16, and exp() of it is zero


def mask_bias(mask: Tensor) -> Tensor:
    """Attention bias (B, L) of a 0/1 token mask (B, L): 0 for tokens, ``MASKED`` for padding."""
    return (1.0 - mask) * MASKED


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention.

    Args:
        query: (B, N, D).
        key: (B, M, D), or (B, M, D / heads) for one key/value head (multi-query attention).
        value: as ``key``.
        heads: query heads.
        bias: (B, M), added to the scores.

    Returns:
        (B, N, D)
    """
    batch, tokens, width = query.shape
    keys, dim = key.shape[1], width // heads  # dim: width of one head
    if key.shape[-1] == dim:  # multi-query: fold the heads into the query tokens
        scores = torch.bmm(query.reshape(batch, tokens * heads, dim), key.transpose(1, 2)) * dim**-0.5
        if bias is not None:
            scores = scores + bias.unsqueeze(1)
        return torch.bmm(F.softmax(scores, -1).to(value.dtype), value).reshape(batch, tokens, width)
    q = query.reshape(batch, tokens, heads, dim).transpose(1, 2).reshape(batch * heads, tokens, dim)
    k = key.reshape(batch, keys, heads, dim).transpose(1, 2).reshape(batch * heads, keys, dim)
    v = value.reshape(batch, keys, heads, dim).transpose(1, 2).reshape(batch * heads, keys, dim)
    scores = torch.bmm(q, k.transpose(1, 2)) * dim**-0.5  # (B * heads, N, M)
    if bias is not None:
        grid = scores.reshape(batch, heads, tokens, keys) + bias.reshape(batch, 1, 1, keys)
        scores = grid.reshape(batch * heads, tokens, keys)
    mixed = torch.bmm(F.softmax(scores, -1).to(v.dtype), v)
    return mixed.reshape(batch, heads, tokens, dim).transpose(1, 2).reshape(batch, tokens, width)


class Attention(nn.Module):
    """Multi-head attention (4 D^2 parameters), or multi-query attention with one key/value head."""

    def __init__(self, dim: int, heads: int, multi_query: bool = False) -> None:
        super().__init__()
        self.heads = heads
        inner = dim // heads if multi_query else dim
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, inner)
        self.value = nn.Linear(dim, inner)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend from ``x`` (B, N, D) to ``context`` (B, M, D) with an additive ``bias`` (B, M); returns (B, N, D)."""
        mixed = attention(self.query(x), self.key(context), self.value(context), self.heads, bias)
        return self.out(mixed)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Linear, GELU, Linear: 2 * expansion * D^2 parameters."""

    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, dim * expansion)
        self.down = nn.Linear(dim * expansion, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        return self.down(F.gelu(self.up(x)))  # type: ignore[no-any-return]


def run_block(block: nn.Module, recompute: bool, *inputs: object) -> Tensor:
    """Call ``block(*inputs)``; with ``recompute``, the backward pass recomputes its activations (gradient checkpointing)."""
    if recompute and torch.is_grad_enabled():
        result: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
    else:
        result = block(*inputs)
    return result


def time_features(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding (B, dim) of the flow time ``t`` (B,) in [0, 1]."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * 1000.0 * torch.exp(steps * (-math.log(10000.0) / half))
    return torch.cat([torch.cos(angles), torch.sin(angles)], -1)


@functools.lru_cache(maxsize=32)
def position_features(height: int, width: int, dim: int, halves: int, device: torch.device) -> Tensor:
    """Fixed 2-D sinusoidal position embedding (1, N, dim) of *relative* coordinates, N = height * width * halves.

    Relative coordinates make "on the left" mean the same at every size. ``halves`` = 2 is the edit
    layout (SPEC section 6): the source, on the right, has the same positions plus a fixed phase.
    """
    quarter = dim // 4
    frequencies = np.pi * np.exp(np.linspace(0.0, np.log(32.0), quarter))
    y = ((np.arange(height) + 0.5) / height)[:, None] * frequencies
    x = ((np.arange(width) + 0.5) / width)[:, None] * frequencies
    grid = np.zeros((height, width * halves, dim))
    for half in range(halves):
        columns = slice(half * width, (half + 1) * width)
        shift = half * np.pi / 2  # a phase of 90 degrees marks the source
        grid[:, columns, :quarter] = np.sin(y + shift)[:, None]
        grid[:, columns, quarter : 2 * quarter] = np.cos(y + shift)[:, None]
        grid[:, columns, 2 * quarter : 3 * quarter] = np.sin(x + shift)[None]
        grid[:, columns, 3 * quarter : 4 * quarter] = np.cos(x + shift)[None]
    return torch.from_numpy(grid.reshape(1, -1, dim).astype(np.float32)).to(device)
