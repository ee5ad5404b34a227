"""Bidirectional state-space mixing over zigzag scans, in forms without a scan (SPEC section 3).

The recurrence, in scan order, for one direction and one head of width P with a state of S numbers::

    h_i = exp(a_i) h_{i-1} + x_i B_i^T          h_i (P, S)
    y_i = h_i C_i                               y_i (P,)

is Mamba-2's scalar-decay form (arXiv 2405.21060). Token j reaches token i with the weight
``exp(a_{j+1} + ... + a_i) C_i . B_j`` when it comes no later in scan order, so the whole layer is
one N x N matrix. ``dense`` builds that matrix: tokens stay in raster order and only the constant
0/1 matrix T ("j comes no later than i") knows the scan. ``chunked`` builds it for chunks of whole
rows (or columns) and passes states between chunks, which is linear in N. ``sequential`` is the
recurrence itself and is what both are tested against.

Scan paths are zigzags (ZigMa, arXiv 2403.13802): rows from the top left, columns from the top left,
rows from the top right, columns from the bottom left; with their reverses these are Zigzag-8.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PATHS = 4


@dataclass(frozen=True)
class Direction:
    """Inputs of one scan direction: log decays ``a`` (B, heads, N), input and output vectors ``b``, ``c`` (B, N, S)."""

    a: Tensor
    b: Tensor
    c: Tensor


def scan_positions(path: int, height: int, width: int) -> np.ndarray:
    """Position in scan order of every raster token of a ``height`` x ``width`` grid, (N,) int64."""
    if path % 2:  # column zigzag: the row zigzag of the transposed grid
        transposed = scan_positions(path - 1, width, height)
        return transposed.reshape(width, height).T.reshape(-1)
    rows, columns = np.divmod(np.arange(height * width), width)
    leftward = (rows + path // 2) % 2 == 1
    positions: np.ndarray = rows * width + np.where(leftward, width - 1 - columns, columns)
    return positions


def precedence(path: int, height: int, width: int) -> np.ndarray:
    """The constant T, (N, N) float32: 1 where token j comes no later than token i in scan order."""
    position = scan_positions(path, height, width)
    return (position[None, :] <= position[:, None]).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _dense_order(path: int, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(precedence(path, height, width)).to(device, dtype)


def _prefix_sums(order: Tensor, a: Tensor) -> Tensor:
    """Sums of ``a`` (..., N) over preceding tokens, minus half of the total (which keeps fp16 in range)."""
    if torch.is_autocast_enabled(a.device.type):  # a matmul would round the decays to bfloat16
        return (a.unsqueeze(-2) * (order - 0.5)).sum(-1)
    return torch.matmul(a, (order - 0.5).transpose(-1, -2))


def _mixing(order: Tensor, side: Direction) -> Tensor:
    """The mixing matrix (B, heads, N, N): decay from j to i times ``c_i . b_j``, 0 where j comes later.

    Clamping at 0 keeps the exponential finite where j comes later. The zeros are set in the product that all heads share.
    """
    sums = _prefix_sums(order, side.a)
    decay = torch.exp((sums.unsqueeze(-1) - sums.unsqueeze(-2)).clamp(max=0.0))
    return decay * (torch.bmm(side.c, side.b.transpose(1, 2)) * order).unsqueeze(1)


def dense(x: Tensor, forward: Direction, backward: Direction, path: int, height: int, width: int) -> Tensor:
    """Mix tokens in both directions of one path through one N x N matrix.

    Args:
        x: (B, heads, N, P) in raster order.
        forward: in scan order.
        backward: in reverse scan order.
        path: 0 to 3, the zigzag.
        height: of the token grid.
        width: of the token grid.

    Returns:
        (B, heads, N, P), without the ``D x`` term.
    """
    batch, heads, tokens, head_dim = x.shape
    order = _dense_order(path, height, width, x.device, forward.a.dtype)
    mixing = _mixing(order, forward) + _mixing(order.T, backward)  # (B, heads, N, N)
    mixed = torch.bmm(
        mixing.reshape(batch * heads, tokens, tokens).to(x.dtype),
        x.reshape(batch * heads, tokens, head_dim),
    )
    return mixed.reshape(batch, heads, tokens, head_dim)


def chunk_rows(height: int, width: int, chunk: int) -> int:
    """Rows per chunk: the largest divisor of ``height`` with at most ``chunk`` tokens, at least 1."""
    return max(
        rows for rows in range(1, height + 1) if height % rows == 0 and (rows * width <= chunk or rows == 1)
    )


@functools.lru_cache(maxsize=64)
def _chunk_orders(
    path: int, height: int, width: int, rows: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """For a row zigzag, T inside every chunk (M, P, P) and the strict order of the chunks (M, M)."""
    chunks, size = height // rows, rows * width
    position = scan_positions(path, height, width).reshape(chunks, size)
    inside = (position[:, None, :] <= position[:, :, None]).astype(np.float32)
    before = np.tril(np.ones((chunks, chunks), np.float32), -1)
    return torch.from_numpy(inside).to(device, dtype), torch.from_numpy(before).to(device, dtype)


def _chunked_direction(x: Tensor, side: Direction, inside: Tensor, before: Tensor) -> Tensor:
    """Mix one direction; x (B, h, M, P, d), side.a (B, h, M, P), side.b and side.c (B, M, P, S).

    Letters here: h heads, M chunks, P tokens of a chunk, d width of a head, S state.
    """
    batch, heads, chunks, _, head_dim = x.shape
    state = side.b.shape[-1]
    if torch.is_autocast_enabled(x.device.type):
        sums = (side.a.unsqueeze(-2) * inside).sum(-1)
    else:
        sums = torch.matmul(inside, side.a.unsqueeze(-1)).squeeze(-1)  # (B, h, M, P), inclusive
    total = side.a.sum(-1)  # (B, h, M)
    decay = torch.exp((sums.unsqueeze(-1) - sums.unsqueeze(-2)).clamp(max=0.0))
    gram = (torch.matmul(side.c, side.b.transpose(-1, -2)) * inside).unsqueeze(1)  # (B, 1, M, P, P)
    within = torch.matmul((decay * gram).to(x.dtype), x)  # (B, h, M, P, d)

    to_end = torch.exp(total.unsqueeze(-1) - sums).unsqueeze(-1)  # (B, h, M, P, 1)
    b, c = side.b.unsqueeze(1), side.c.unsqueeze(1)  # (B, 1, M, P, S)
    ends = torch.matmul((x * to_end).transpose(-1, -2), b.to(x.dtype))  # states at chunk ends (B, h, M, d, S)
    centred = before + torch.eye(chunks, dtype=before.dtype, device=x.device) - 0.5
    reach = (total.unsqueeze(-2) * centred).sum(-1)  # (B, h, M), as `_prefix_sums`
    between = torch.exp(((reach - total).unsqueeze(-1) - reach.unsqueeze(-2)).clamp(max=0.0)) * before
    carried = torch.matmul(between.to(x.dtype), ends.reshape(batch, heads, chunks, head_dim * state))
    carried = carried.reshape(batch, heads, chunks, head_dim, state)  # states at chunk starts
    across = torch.matmul(c.to(x.dtype) * torch.exp(sums).unsqueeze(-1), carried.transpose(-1, -2))
    return within + across


def chunked(
    x: Tensor, forward: Direction, backward: Direction, path: int, height: int, width: int, chunk: int = 64
) -> Tensor:
    """Equal to ``dense``, in time linear in N: chunks of whole rows (columns for the odd paths).

    Args:
        x: (B, heads, N, P) in raster order.
        forward: as in ``dense``.
        backward: as in ``dense``.
        path: as in ``dense``.
        height: as in ``dense``.
        width: as in ``dense``.
        chunk: upper limit of tokens in a chunk of several rows.

    Returns:
        (B, heads, N, P), without the ``D x`` term.
    """
    batch, heads, tokens, head_dim = x.shape
    columns = path % 2 == 1
    lines, length = (width, height) if columns else (height, width)
    rows = chunk_rows(lines, length, chunk)
    inside, before = _chunk_orders(path - path % 2, lines, length, rows, x.device, forward.a.dtype)
    chunks, size = lines // rows, rows * length

    def along_path(value: Tensor, dim: int) -> Tensor:
        """Reorder the raster axis ``dim`` to column-major order, when the path runs along columns."""
        if not columns:
            return value
        front, back = value.shape[:dim], value.shape[dim + 1 :]
        split = value.reshape(*front, height, width, *back).transpose(dim, dim + 1)
        return split.reshape(*front, tokens, *back)

    def chunks_of(side: Direction) -> Direction:
        return Direction(
            along_path(side.a, 2).reshape(batch, heads, chunks, size),
            along_path(side.b, 1).reshape(batch, chunks, size, -1),
            along_path(side.c, 1).reshape(batch, chunks, size, -1),
        )

    pieces = along_path(x, 2).reshape(batch, heads, chunks, size, head_dim)
    mixed = _chunked_direction(pieces, chunks_of(forward), inside, before)
    mixed = mixed + _chunked_direction(pieces, chunks_of(backward), inside.transpose(1, 2), before.T)
    mixed = mixed.reshape(batch, heads, tokens, head_dim)
    if columns:
        mixed = mixed.reshape(batch, heads, width, height, head_dim).transpose(2, 3)
    return mixed.reshape(batch, heads, tokens, head_dim)


def sequential(
    x: Tensor, forward: Direction, backward: Direction, path: int, height: int, width: int
) -> Tensor:
    """The recurrence, token by token, as the reference of tests; arguments and result as in ``dense``."""
    order = np.argsort(scan_positions(path, height, width))
    result = torch.zeros_like(x)
    for side, steps in ((forward, order), (backward, order[::-1])):
        state = x.new_zeros(*x.shape[:2], x.shape[3], side.b.shape[-1])  # (B, heads, P, S)
        for i in steps.tolist():
            outer = x[:, :, i, :, None] * side.b[:, None, None, i, :]
            state = torch.exp(side.a[:, :, i, None, None]) * state + outer
            result[:, :, i] += (state * side.c[:, None, None, i, :]).sum(-1)
    return result
