"""Shapes and bytes of the tensors of an ONNX graph with static shapes. Needs the package onnx.

The cost of a graph (benchmarks) and its memory (``mf-export fit``) are computed from these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from microforge.errors import GraphLintError, missing_extra

try:
    import onnx
except ImportError:
    raise missing_extra("onnx", "bench") from None

#: Operators whose result shares the memory of their first input: they move and allocate nothing.
RENAMES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


@dataclass(frozen=True)
class Tensor:
    """Static shape, and bytes as stored."""

    shape: tuple[int, ...]
    bytes: int


def read_graph(path: Path) -> onnx.ModelProto:
    """The graph in ``path``, without reading its external weights."""
    return onnx.load(path, load_external_data=False)


def tensors(model: onnx.ModelProto) -> dict[str, Tensor]:
    """All tensors of ``model`` except weights, by name.

    Raises:
        GraphLintError: when a shape is not static.
    """
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        sides = tuple(side.dim_value if side.HasField("dim_value") else -1 for side in kind.shape.dim)
        if min(sides, default=0) < 0:
            raise GraphLintError(f"tensor {value.name!r} has no static shape; export with fixed sizes")
        shapes[value.name] = _tensor(sides, kind.elem_type)
    return shapes


def weights(model: onnx.ModelProto) -> dict[str, Tensor]:
    """The graph's weights by name, external ones included."""
    return {item.name: _tensor(tuple(item.dims), item.data_type) for item in model.graph.initializer}


def _tensor(shape: tuple[int, ...], kind: int) -> Tensor:
    return Tensor(shape, math.prod(shape) * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
