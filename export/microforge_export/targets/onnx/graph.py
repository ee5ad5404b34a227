"""Queries and constants of an ONNX graph in memory that its rewrites share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def users(value: ir.Value) -> list[ir.Node]:
    """The nodes that read ``value``, once per use."""
    return [use.node for use in value.uses()]


def sole_user(value: ir.Value, operator: str) -> ir.Node | None:
    """The only reader of ``value``, if it is an ``operator``; None otherwise, and for outputs of the graph."""
    nodes = users(value)
    sole = len(nodes) == 1 and nodes[0].op_type == operator and not value.is_graph_output()
    return nodes[0] if sole else None


def initializer(graph: ir.Graph, name: str, value: NDArray[np.generic]) -> ir.Value:
    """The constant with this name; it is created from ``value`` if there is none."""
    if name not in graph.initializers:
        tensor = ir.tensor(value, name=name)
        kind = ir.TensorType(tensor.dtype)
        graph.register_initializer(
            ir.Value(name=name, shape=ir.Shape(value.shape), type=kind, const_value=tensor)
        )
    return graph.initializers[name]


def constant(graph: ir.Graph, numbers: Sequence[int]) -> ir.Value:
    """An int64 constant with these numbers, shared by all of its users."""
    return initializer(graph, f"numbers.{'.'.join(map(str, numbers))}", np.array(numbers, np.int64))
