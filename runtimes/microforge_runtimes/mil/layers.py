"""MIL's operators that sum: linear layers, convolutions, attention, norms, reductions. See ``mil_ops``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from microforge.errors import BundleError
from microforge_runtimes.arrays import Array


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x (..., I), weight (O, I) -> (..., O)."""
    result: Array = x @ weight.T
    return result if bias is None else result + bias


def matmul(x: Array, y: Array, transpose_x: bool | Array = False, transpose_y: bool | Array = False) -> Array:
    left = np.swapaxes(x, -1, -2) if transpose_x else x
    right = np.swapaxes(y, -1, -2) if transpose_y else y
    product: Array = left @ right
    return product


def einsum(values: tuple[Array, ...], equation: str) -> Array:
    result: Array = np.einsum(equation, *values)
    return result


def conv(
    x: Array, weight: Array, bias: Array | None = None, strides: Array | None = None, pad_type: str = "valid",
    pad: Array | None = None, dilations: Array | None = None, groups: int | Array = 1,
) -> Array:  # fmt: skip
    """x (B, I, *sides), weight (O, I / groups, *kernel) -> (B, O, *sides'): windows, then one matmul a group."""
    axes = x.ndim - 2
    steps, spread = _numbers(strides, axes, 1), _numbers(dilations, axes, 1)
    padded = np.pad(x, ((0, 0), (0, 0), *_padding(pad_type, pad, axes)))
    reach = tuple((side - 1) * gap + 1 for side, gap in zip(weight.shape[2:], spread, strict=True))
    windows = padded  # (B, I, *sides', *reach)
    for axis, size in enumerate(reach, 2):
        windows = sliding_window_view(windows, size, axis)
    picked = [slice(None), slice(None), *(slice(None, None, step) for step in steps)]
    windows = windows[(*picked, *(slice(None, None, gap) for gap in spread))]
    sides, count, parts = windows.shape[2 : 2 + axes], weight.shape[0], int(groups)
    # (B, groups, pixels, I / groups * kernel), so that one matmul serves every group
    grouped = windows.reshape(x.shape[0], parts, -1, *windows.shape[2:])
    columns = np.moveaxis(grouped, 2, 2 + axes).reshape(x.shape[0], parts, math.prod(sides), -1)
    kernels = weight.reshape(parts, count // parts, -1).swapaxes(
        1, 2
    )  # (groups, I / groups * kernel, O / groups)
    result: Array = (columns @ kernels).swapaxes(-1, -2).reshape(x.shape[0], count, *sides)
    return result if bias is None else result + bias.reshape(-1, *[1] * axes)


def conv_transpose(
    x: Array, weight: Array, bias: Array | None = None, pad: Array | None = None,
    output_shape: Array | None = None, pad_type: str = "valid", strides: Array | None = None,
    dilations: Array | None = None, groups: int | Array = 1,
) -> Array:  # fmt: skip
    """x (B, I, *sides), weight (I, O / groups, *kernel): the gradient of ``conv``, as a conv of a spread-out x."""
    axes, parts = x.ndim - 2, int(groups)
    steps, spread = _numbers(strides, axes, 1), _numbers(dilations, axes, 1)
    cut = _padding(pad_type, pad, axes)
    grid = np.zeros(
        (*x.shape[:2], *((side - 1) * step + 1 for side, step in zip(x.shape[2:], steps, strict=True))),
        x.dtype,
    )
    grid[(slice(None), slice(None), *(slice(None, None, step) for step in steps))] = x
    reach = [(side - 1) * gap for side, gap in zip(weight.shape[2:], spread, strict=True)]
    margins = [(size - before, size - after) for size, (before, after) in zip(reach, cut, strict=True)]
    if output_shape is not None:  # rows that the strides leave open, at the far end
        for axis, (side, wanted) in enumerate(zip(grid.shape[2:], output_shape[-axes:], strict=True)):
            before, after = margins[axis]
            margins[axis] = (before, after + int(wanted) - (side + before + after - reach[axis]))
    kernels = np.flip(weight, tuple(range(2, 2 + axes)))
    kernels = kernels.reshape(parts, -1, *weight.shape[1:]).swapaxes(
        1, 2
    )  # (groups, O / groups, I / groups, ...)
    kernels = kernels.reshape(-1, weight.shape[0] // parts, *weight.shape[2:])
    padding = np.asarray(margins).reshape(-1)
    return conv(grid, kernels, bias, None, "custom", padding, dilations, groups)


def _numbers(values: Array | None, count: int, default: int) -> list[int]:
    return [default] * count if values is None else [int(value) for value in values]


def _padding(pad_type: str, pad: Array | None, axes: int) -> list[tuple[int, int]]:
    """Numbers to pad before and after each spatial axis."""
    if pad_type == "valid":
        return [(0, 0)] * axes
    if pad_type != "custom":
        raise BundleError(f"padding {pad_type!r} is not interpreted; known: valid, custom")
    numbers = _numbers(pad, 2 * axes, 0)
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def softmax(x: Array, axis: int | Array = -1) -> Array:
    powers = np.exp(x - x.max(int(axis), keepdims=True))
    result: Array = powers / powers.sum(int(axis), keepdims=True)
    return result


def attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    """iOS 18's ``scaled_dot_product_attention``; a boolean mask is True where a key may be seen."""
    scores = query @ np.swapaxes(key, -1, -2) / np.float32(math.sqrt(query.shape[-1]))
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == np.bool_ else scores + attn_mask
    result: Array = softmax(scores) @ value
    return result


def layer_norm(
    x: Array, axes: Array | None = None, gamma: Array | None = None, beta: Array | None = None,
    epsilon: float | Array = 1e-5,
) -> Array:  # fmt: skip
    """Zero mean and unit variance over ``axes``, then ``gamma`` and ``beta``, which have those axes' shape."""
    over = tuple(range(x.ndim)) if axes is None else tuple(sorted(int(axis) % x.ndim for axis in axes))
    result = _standardized(x, over, epsilon)
    shape = [x.shape[axis] if axis in over else 1 for axis in range(x.ndim)]
    result = result if gamma is None else result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


def batch_norm(
    x: Array, mean: Array, variance: Array, gamma: Array | None = None, beta: Array | None = None,
    epsilon: float | Array = 1e-5,
) -> Array:  # fmt: skip
    """With given statistics per channel; x (B, C, ...)."""
    shape = (-1, *[1] * (x.ndim - 2))
    scale = 1.0 / np.sqrt(variance + np.float32(epsilon))
    result: Array = (x - mean.reshape(shape)) * scale.reshape(shape)
    result = result if gamma is None else result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


def instance_norm(
    x: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: float | Array = 1e-5
) -> Array:
    """Over the sides of every channel of every image; x (B, C, ...)."""
    result = _standardized(x, tuple(range(2, x.ndim)), epsilon)
    shape = (-1, *[1] * (x.ndim - 2))
    result = result if gamma is None else result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


def _standardized(x: Array, axes: tuple[int, ...], epsilon: float | Array) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    result: Array = centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + np.float32(epsilon))
    return result


def _reduction(reduce: Callable[..., Array]) -> Callable[..., Array]:
    """An operator that reduces ``axes`` (all of them when absent) with a function of (x, axis, keepdims)."""

    def operator(x: Array, axes: Array | None = None, keep_dims: bool | Array = False) -> Array:
        over = None if axes is None else tuple(int(axis) for axis in axes)
        return reduce(x, axis=over, keepdims=bool(keep_dims))

    return operator


def _log_sum_exp(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    peak = x.max(axis, keepdims=True)
    total: Array = np.log(np.exp(x - peak).sum(axis, keepdims=True)) + peak
    return total if keepdims else total.squeeze(axis)


def _argument(find: Callable[..., Array]) -> Callable[..., Array]:
    def operator(
        x: Array, axis: int | Array = -1, keep_dims: bool | Array = False, output_dtype: str = "int32"
    ) -> Array:
        return find(x, axis=int(axis), keepdims=bool(keep_dims))

    return operator


OPERATORS: Mapping[str, Callable[..., Array]] = {
    "batch_norm": batch_norm,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "einsum": einsum,
    "instance_norm": instance_norm,
    "layer_norm": layer_norm,
    "linear": linear,
    "matmul": matmul,
    "reduce_argmax": _argument(np.argmax),
    "reduce_argmin": _argument(np.argmin),
    "reduce_l1_norm": _reduction(lambda x, axis, keepdims: np.abs(x).sum(axis, keepdims=keepdims)),
    "reduce_l2_norm": _reduction(
        lambda x, axis, keepdims: np.sqrt(np.square(x).sum(axis, keepdims=keepdims))
    ),
    "reduce_log_sum_exp": _reduction(_log_sum_exp),
    "reduce_max": _reduction(np.max),
    "reduce_mean": _reduction(np.mean),
    "reduce_min": _reduction(np.min),
    "reduce_prod": _reduction(np.prod),
    "reduce_sum": _reduction(np.sum),
    "reduce_sum_square": _reduction(lambda x, axis, keepdims: np.square(x).sum(axis, keepdims=keepdims)),
    "scaled_dot_product_attention": attention,
    "softmax": softmax,
}
