"""MIL's operators for compressed constants: dequantization, palettes, sparsity (Core ML Tools, ``constexpr_*``).

Each takes arrays by the parameter's name and gives the dense constant. iOS 16 and iOS 18 use the name
``constexpr_lut_to_dense`` (and ``constexpr_sparse_to_dense``) for different parameters; both are here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from microforge.errors import BundleError
from microforge_runtimes.arrays import Array
from microforge_runtimes.mil.weight_blob import unpack_bits


def affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Array) -> Array:
    """``scale * (quantized_data - zero_point)``; vectors lie along ``axis``."""

    def along(vector: Array) -> Array:
        shape = [1] * quantized_data.ndim
        shape[int(axis)] = vector.size
        return vector.astype(np.float32).reshape(shape) if vector.ndim else vector.astype(np.float32)

    return (quantized_data.astype(np.float32) - along(zero_point)) * along(scale)


def blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """``scale * (data - offset)``; scale and offset have ``data``'s rank, each number serves a block."""
    shifted = data.astype(np.float32)
    if offset is not None:
        shifted = shifted - _spread(offset.astype(np.float32), data.shape)
    return shifted * _spread(scale.astype(np.float32), data.shape)


def lut_to_dense(
    indices: Array, lut: Array, shape: Array | None = None, vector_axis: Array | None = None
) -> Array:
    """Indices replaced by entries of a palette.

    iOS 16: indices are bytes of packed numbers, ``shape`` the result's, ``lut`` (palette size,).
    iOS 18: ``lut`` is (blocks along each axis..., palette size, vector size), vectors fill ``vector_axis``.
    """
    if shape is not None:
        dense = tuple(int(side) for side in shape)
        numbers = unpack_bits(indices, int(math.log2(lut.size)), math.prod(dense))
        return lut.astype(np.float32)[numbers].reshape(dense)
    if lut.ndim != indices.ndim + 2:
        raise BundleError(f"a palette of {lut.ndim} axes does not fit indices of {indices.ndim} axes")
    blocks = lut.shape[: indices.ndim]
    owner = np.arange(math.prod(blocks)).reshape(blocks)  # which palette serves an index
    palettes = lut.astype(np.float32).reshape(-1, *lut.shape[-2:])
    vectors = palettes[_spread(owner, indices.shape), indices]  # (indices..., vector size)
    if vectors.shape[-1] == 1:
        return vectors[..., 0]
    assert vector_axis is not None
    axis = int(vector_axis) % indices.ndim
    moved = np.moveaxis(vectors, -1, axis + 1)
    return moved.reshape(*indices.shape[:axis], -1, *indices.shape[axis + 1 :])


def sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    """``nonzero_data`` where ``mask`` is 1, in order; 0 elsewhere. iOS 16 packs the mask in bytes."""
    if shape is not None:
        dense = tuple(int(side) for side in shape)
        mask = unpack_bits(mask, 1, math.prod(dense)).reshape(dense)
    result = np.zeros(mask.shape, np.float32)
    result[mask != 0] = nonzero_data
    return result


def cast(source_val: Array, output_dtype: str) -> Array:
    """The same numbers in another type; the interpreter gives a result its declared type."""
    return source_val


def _spread(values: Array, shape: tuple[int, ...]) -> Array:
    """Repeat every number of ``values`` over its block of an array of ``shape``.

    Raises:
        BundleError: when the blocks do not fill the shape.
    """
    if values.ndim != len(shape) or any(
        large % small for large, small in zip(shape, values.shape, strict=True)
    ):
        raise BundleError(f"blocks {list(values.shape)} do not divide a constant of shape {list(shape)}")
    for axis, side in enumerate(shape):
        if values.shape[axis] not in (1, side):
            values = np.repeat(values, side // values.shape[axis], axis)
    return np.broadcast_to(values, shape)


OPERATORS: Mapping[str, Callable[..., Array]] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": cast,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_sparse_to_dense": sparse_to_dense,
}
