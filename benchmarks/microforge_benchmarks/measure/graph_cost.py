"""Operations and bytes of an ONNX graph, counted from its static shapes.

Operations: two for each multiply-add of a matrix product or convolution. Other operators are counted in bytes only,
because memory bounds them. Bytes: every node reads its inputs, including weights, and writes its outputs once; nodes that
only reshape move nothing. Engines that fuse nodes move less, so this is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from microforge import onnx_shapes
from microforge.onnx_shapes import RENAMES, Tensor


@dataclass(frozen=True)
class GraphCost:
    """Operations in matrix products and convolutions (``products``), and bytes of weights and of all traffic."""

    products: int
    weights: int
    moved: int

    def __add__(self, other: GraphCost) -> GraphCost:
        return GraphCost(
            self.products + other.products, self.weights + other.weights, self.moved + other.moved
        )

    def times(self, count: int) -> GraphCost:
        """Cost of ``count`` evaluations, which share the weights."""
        return GraphCost(self.products * count, self.weights, self.moved * count)


def graph_cost(model: onnx.ModelProto) -> GraphCost:
    """Cost of one evaluation of ``model``, which has static shapes."""
    constants = onnx_shapes.weights(model)
    tensors = {**onnx_shapes.tensors(model), **constants}
    weights = sum(item.bytes for item in constants.values())
    products = moved = 0
    for node in model.graph.node:
        products += _products(node, tensors)
        if node.op_type not in RENAMES:
            names = (*node.input, *node.output)
            moved += sum(tensors[name].bytes for name in names if name in tensors)
    return GraphCost(products, weights, moved)


def read_cost(path: Path) -> GraphCost:
    """Cost of the graph in a file (see ``graph_cost``); external weights are not read."""
    return graph_cost(onnx_shapes.read_graph(path))


def _products(node: onnx.NodeProto, tensors: Mapping[str, Tensor]) -> int:
    """Operations of a node: two for each multiply-add, which sum over the inner length for every output element."""
    if node.op_type in ("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm"):
        left = tensors[node.input[0]].shape
        transposed = any(item.name == "transA" and item.i for item in node.attribute)
        inner = left[0] if transposed else left[-1]
    elif node.op_type in ("Conv", "ConvInteger", "QLinearConv"):
        position = 3 if node.op_type == "QLinearConv" else 1
        inner = math.prod(tensors[node.input[position]].shape[1:])
    else:
        return 0
    return 2 * math.prod(tensors[node.output[0]].shape) * inner
