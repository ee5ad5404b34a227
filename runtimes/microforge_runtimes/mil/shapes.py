"""MIL's operators that move numbers without changing them: shapes, slices, gathers. See ``mil_ops``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from microforge.errors import BundleError
from microforge_runtimes.arrays import Array


def reshape(x: Array, shape: Array) -> Array:
    """-1 is what is left over, 0 the side of ``x`` at the same place from the right, and 1 where it has none."""
    own = (1,) * max(0, shape.size - x.ndim) + x.shape
    beside = own[len(own) - shape.size :]
    return x.reshape([int(side) or same for side, same in zip(shape, beside, strict=True)])


def transpose(x: Array, perm: Array) -> Array:
    return x.transpose([int(axis) for axis in perm])


def expand_dims(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(int(axis) for axis in axes))


def squeeze(x: Array, axes: Array | None = None) -> Array:
    return x.squeeze(None if axes is None else tuple(int(axis) for axis in axes))


def flatten2d(x: Array, axis: int | Array = 1) -> Array:
    axis = int(axis)
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)


def concat(values: tuple[Array, ...], axis: int | Array, interleave: bool | Array = False) -> Array:
    axis = int(axis)
    if not interleave:
        return np.concatenate(values, axis)
    stacked = np.stack(values, axis % values[0].ndim + 1)
    shape = list(values[0].shape)
    shape[axis] *= len(values)
    return stacked.reshape(shape)


def stack(values: tuple[Array, ...], axis: int | Array) -> Array:
    return np.stack(values, int(axis))


def split(
    x: Array, axis: int | Array, num_splits: int | Array | None = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    if split_sizes is not None:
        return tuple(np.split(x, np.cumsum(split_sizes)[:-1], int(axis)))
    assert num_splits is not None
    return tuple(np.split(x, int(num_splits), int(axis)))


def slice_by_index(
    x: Array, begin: Array, end: Array, stride: Array | None = None, begin_mask: Array | None = None,
    end_mask: Array | None = None, squeeze_mask: Array | None = None,
) -> Array:  # fmt: skip
    """numpy's slices; a set mask ignores that begin or end, or takes one index and drops the axis."""

    def chosen(mask: Array | None, axis: int) -> bool:
        return mask is not None and bool(mask[axis])

    picks: list[int | slice] = []
    for axis in range(x.ndim):
        if chosen(squeeze_mask, axis):
            picks.append(int(begin[axis]))
            continue
        first = None if chosen(begin_mask, axis) else int(begin[axis])
        last = None if chosen(end_mask, axis) else int(end[axis])
        picks.append(slice(first, last, 1 if stride is None else int(stride[axis])))
    return x[tuple(picks)]


def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """-1 as a size goes to the end."""
    bounds = zip(begin, size, strict=True)
    return x[tuple(slice(int(start), None if count < 0 else int(start + count)) for start, count in bounds)]


def tile(x: Array, reps: Array) -> Array:
    return np.tile(x, [int(count) for count in reps])


def pad(x: Array, pad: Array, mode: str = "constant", constant_val: float | Array = 0.0) -> Array:
    """``pad`` holds numbers before and after each of the last axes."""
    widths = [(0, 0)] * (x.ndim - pad.size // 2) + [(int(a), int(b)) for a, b in pad.reshape(-1, 2)]
    if mode == "constant":
        return np.pad(x, widths, constant_values=constant_val)
    if mode == "reflect":
        return np.pad(x, widths, "reflect")
    if mode == "replicate":
        return np.pad(x, widths, "edge")
    raise BundleError(f"padding {mode!r} is not interpreted; known: constant, reflect, replicate")


def crop(x: Array, crop_height: Array, crop_width: Array) -> Array:
    """Numbers of rows and columns to drop at each side of the last two axes."""
    (top, bottom), (left, right) = crop_height.tolist(), crop_width.tolist()
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def pixel_shuffle(x: Array, upscale_factor: int | Array) -> Array:
    """(B, C f^2, H, W) -> (B, C, H f, W f), torch's order."""
    factor, (batch, deep, height, width) = int(upscale_factor), x.shape
    cells = x.reshape(batch, deep // factor**2, factor, factor, height, width)
    return cells.transpose(0, 1, 4, 2, 5, 3).reshape(batch, -1, height * factor, width * factor)


def pixel_unshuffle(x: Array, downscale_factor: int | Array) -> Array:
    """(B, C, H f, W f) -> (B, C f^2, H, W), torch's order."""
    factor, (batch, channels, height, width) = int(downscale_factor), x.shape
    cells = x.reshape(batch, channels, height // factor, factor, width // factor, factor)
    return cells.transpose(0, 1, 3, 5, 2, 4).reshape(batch, -1, height // factor, width // factor)


def upsample_nearest_neighbor(
    x: Array, scale_factor_height: float | Array = 1, scale_factor_width: float | Array = 1
) -> Array:
    """By whole factors, over the last two axes."""
    factors = float(scale_factor_height), float(scale_factor_width)
    if any(factor != int(factor) for factor in factors):
        raise BundleError(f"upsampling by {factors} is not interpreted; known: whole factors")
    return x.repeat(int(factors[0]), -2).repeat(int(factors[1]), -1)


def gather(
    x: Array, indices: Array, axis: int | Array = 0, batch_dims: int | Array = 0,
    validate_indices: bool | Array = False,
) -> Array:  # fmt: skip
    """``x``'s slices at ``indices`` along ``axis``; the first ``batch_dims`` axes of both go together."""
    axis, shared = int(axis) % x.ndim, int(batch_dims)
    # A device may do anything at an index outside: that must not pass a parity check.
    if indices.size and (indices.min() < 0 or indices.max() >= x.shape[axis]):
        raise ValueError(
            f"gather takes indices 0 ... {x.shape[axis] - 1}, got {indices.min()} ... {indices.max()}"
        )
    if not shared:
        return np.take(x, indices, axis)
    leading = x.shape[:shared]
    pairs = zip(x.reshape(-1, *x.shape[shared:]), indices.reshape(-1, *indices.shape[shared:]), strict=True)
    picked = np.stack([np.take(part, places, axis - shared) for part, places in pairs])
    return picked.reshape(*leading, *picked.shape[1:])


def gather_along_axis(
    x: Array, indices: Array, axis: int | Array = 0, validate_indices: bool | Array = False
) -> Array:
    return np.take_along_axis(x, indices.astype(np.int64), int(axis))


def cumsum(
    x: Array, axis: int | Array = 0, exclusive: bool | Array = False, reverse: bool | Array = False
) -> Array:
    axis = int(axis)
    turned = np.flip(x, axis) if reverse else x
    sums: Array = np.cumsum(turned, axis, dtype=x.dtype)
    sums = sums - turned if exclusive else sums
    return np.flip(sums, axis) if reverse else sums


def fill(shape: Array, value: float | Array = 0.0) -> Array:
    return np.full([int(side) for side in shape], value)


def range_1d(start: Array, end: Array, step: Array) -> Array:
    return np.arange(start.item(), end.item(), step.item())


def reverse(x: Array, axes: Array | None = None) -> Array:
    return np.flip(x, None if axes is None else tuple(int(axis) for axis in axes))


OPERATORS: Mapping[str, Callable[..., Array | tuple[Array, ...]]] = {
    "concat": concat,
    "crop": crop,
    "cumsum": cumsum,
    "expand_dims": expand_dims,
    "fill": fill,
    "flatten2d": flatten2d,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "range_1d": range_1d,
    "reshape": reshape,
    "reverse": reverse,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "transpose": transpose,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
