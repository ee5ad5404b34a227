"""Decomposes a traced graph into operators that XNNPACK's partitioner takes as one partition.

The partitioner leaves an operator outside its delegate if it has no kernel for its form: reductions over other axes
than the last two of four, norms, ``expand``, ``select``, ``unsqueeze``, alias copies, and matmuls with broadcast batch
axes. Each such operator splits the delegate in two. Here a reduction becomes a product with a constant of equal
weights, which every engine runs fast, and the others become views, slices and products with ones. GELU in its tanh
form is spelled out, because XNNPACK's delegate computes the exact form in its place. ``simplify`` applies the
decompositions and folds constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from executorch.exir.passes.constant_prop_pass import constant_prop_pass
from torch import Tensor
from torch.export import ExportedProgram

aten = torch.ops.aten
_quantized = torch.ops.quantized_decomposed
#: Folding these would convert the int8 weights of a quantized program to floats.
_NOT_FOLDED = {_quantized.dequantize_per_channel.default, _quantized.dequantize_per_tensor.default}
_WITH_SCALAR = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor})


def simplify(program: ExportedProgram) -> ExportedProgram:
    """A copy of ``program`` with the same result and the operators described above."""
    decomposed = program.run_decompositions(DECOMPOSITIONS)
    # Folding removes constants from the dictionaries of a program, which are still shared with ``program``.
    copy = ExportedProgram(
        root=decomposed.graph_module,
        graph=decomposed.graph,
        graph_signature=decomposed.graph_signature,
        state_dict=dict(decomposed.state_dict),
        range_constraints=decomposed.range_constraints,
        module_call_graph=decomposed.module_call_graph,
        example_inputs=decomposed.example_inputs,
        constants=dict(decomposed.constants),
    )
    folded: ExportedProgram = constant_prop_pass(copy, custom_skip_targets=_NOT_FOLDED)
    for node in folded.graph.nodes:
        # All other metadata describes the origin of a node, including memory addresses, and numbers the debug
        # handles of the file, so that two builds would differ.
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
        if node.target in _WITH_SCALAR and node.meta["val"].is_floating_point():
            # An integer would become an int64 tensor and a conversion, which XNNPACK does not support.
            node.args = tuple(float(item) if type(item) is int else item for item in node.args)
    folded.graph_module.recompile()
    return folded


def _weights(like: Tensor, value: float, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=like.dtype)


def _shaped(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x if tuple(x.shape) == tuple(shape) else x.reshape(tuple(shape))


def _reduced(x: Tensor, dim: int, weight: float) -> Tensor:
    """``weight`` times the sum over axis ``dim``, which is kept with length 1."""
    dim %= x.dim()
    shape = list(x.shape)
    count, out = shape[dim], [*shape[:dim], 1, *shape[dim + 1 :]]
    if x.dim() == 4 and dim == 1:  # channels of an image: a 1x1 convolution keeps the layout
        return torch.conv2d(x, _weights(x, weight, 1, count, 1, 1))
    if dim == x.dim() - 1:
        rows = _shaped(x, (1, math.prod(shape[:dim]), count))
        return _shaped(torch.bmm(rows, _weights(x, weight, 1, count, 1)), out)
    before, after = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    grid = _shaped(x, (before, count, after))
    return _shaped(torch.bmm(_weights(x, weight, before, 1, count), grid), out)


def _reduce_all(x: Tensor, dims: Sequence[int] | None, keepdim: bool, dtype: torch.dtype | None, mean: bool) -> Tensor:  # fmt: skip
    axes = sorted({dim % x.dim() for dim in (dims or range(x.dim()))})
    result = x if dtype is None else x.to(dtype)
    for axis in axes:
        result = _reduced(result, axis, 1.0 / x.shape[axis] if mean else 1.0)
    return result if keepdim else _shaped(result, [side for i, side in enumerate(x.shape) if i not in axes])


def _mean(
    x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    return _reduce_all(x, dim, keepdim, dtype, mean=True)


def _sum(
    x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    return _reduce_all(x, dim, keepdim, dtype, mean=False)


def _mean_square(x: Tensor, normalized: Sequence[int]) -> Tensor:
    return _reduce_all(x * x, range(-len(normalized), 0), True, None, mean=True)


def _layer_norm(
    x: Tensor, normalized: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    centred = x - _reduce_all(x, range(-len(normalized), 0), True, None, mean=True)
    result = centred * torch.rsqrt(_mean_square(centred, normalized) + eps)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _rms_norm(
    x: Tensor, normalized: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    result = x * torch.rsqrt(_mean_square(x, normalized) + eps)
    return result if weight is None else result * weight


def _unsqueeze(x: Tensor, dim: int) -> Tensor:
    dim %= x.dim() + 1
    return x.reshape([*x.shape[:dim], 1, *x.shape[dim:]])


def _squeeze(x: Tensor, dim: int) -> Tensor:
    dim %= x.dim()
    return x.reshape([*x.shape[:dim], *x.shape[dim + 1 :]]) if x.shape[dim] == 1 else x


def _select(x: Tensor, dim: int, index: int) -> Tensor:
    dim %= x.dim()
    index %= x.shape[dim]
    piece: Tensor = aten.slice.Tensor(x, dim, index, index + 1)
    return piece.reshape([*x.shape[:dim], *x.shape[dim + 1 :]])


def _unbind(x: Tensor, dim: int = 0) -> list[Tensor]:
    return [_select(x, dim, index) for index in range(x.shape[dim])]


def _expand(x: Tensor, size: Sequence[int], *, implicit: bool = False) -> Tensor:
    shape = [1] * (len(size) - x.dim()) + list(x.shape)
    result = [old if side == -1 else side for old, side in zip(shape, size, strict=True)]
    factors = [side if old == 1 else 1 for old, side in zip(shape, result, strict=True)]
    x = _shaped(x, shape)
    return x if shape == result else x * _weights(x, 1.0, *factors)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    if a.dim() == 1:
        return _squeeze(_matmul(_unsqueeze(a, 0), b), -2)
    if b.dim() == 1:
        return _squeeze(_matmul(a, _unsqueeze(b, 1)), -1)
    if b.dim() == 2:  # the rows of all batches at once
        product = torch.bmm(_shaped(a, (1, math.prod(a.shape[:-1]), a.shape[-1])), _unsqueeze(b, 0))
        return _shaped(product, (*a.shape[:-1], b.shape[-1]))
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    pair = (_expand(x, (*batch, *x.shape[-2:])) for x in (a, b))
    left, right = (_shaped(x, (math.prod(batch), *x.shape[-2:])) for x in pair)
    return _shaped(torch.bmm(left, right), (*batch, a.shape[-2], b.shape[-1]))


def _gelu(x: Tensor, *, approximate: str = "none") -> Any:
    """The tanh form; (1 + tanh(u)) / 2 is sigmoid(2 u)."""
    if approximate != "tanh":
        return NotImplemented  # stays as it is
    return x * torch.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))


def _new_zeros(x: Tensor, size: Sequence[int], **options: Any) -> Tensor:
    return torch.zeros(tuple(size), dtype=options.get("dtype") or x.dtype)


def _alias(x: Tensor) -> Tensor:
    return x


DECOMPOSITIONS: dict[torch._ops.OperatorBase, Callable[..., Any]] = {
    aten.mean.dim: _mean,
    aten.sum.dim_IntList: _sum,
    aten.layer_norm.default: _layer_norm,
    aten.rms_norm.default: _rms_norm,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dim: _squeeze,
    aten.select.int: _select,
    aten.unbind.int: _unbind,
    aten.expand.default: _expand,
    aten.matmul.default: _matmul,
    aten.gelu.default: _gelu,
    aten.new_zeros.default: _new_zeros,
    aten.alias.default: _alias,
}
