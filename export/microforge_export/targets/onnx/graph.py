"""Queries and constants of an ONNX graph in memory that its rewrites share."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence

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


def producer_of(value: ir.Value | None, operator: str) -> ir.Node | None:
    """The ``operator`` that computes ``value``; None if another one does, or none."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == operator else None


def input_of(node: ir.Node, position: int) -> ir.Value:
    """A required input of the operator."""
    value = node.inputs[position]
    assert value is not None
    return value


def shape_of(value: ir.Value | None) -> tuple[int, ...]:
    """The shape; empty if it is unknown or not static."""
    return () if value is None or value.shape is None or not value.shape.is_static() else value.shape.numpy()


def integers(value: ir.Value | None) -> tuple[int, ...]:
    """The values of an int64 constant; empty for anything else."""
    tensor = None if value is None else value.const_value
    if tensor is None or tensor.dtype != ir.DataType.INT64:
        return ()
    return tuple(int(number) for number in np.atleast_1d(tensor.numpy()))


def floats(value: ir.Value | None) -> NDArray[np.float32] | None:
    """The values of a float32 constant; None for anything else."""
    tensor = None if value is None else value.const_value
    return tensor.numpy() if tensor is not None and tensor.dtype == ir.DataType.FLOAT else None


def new_node(
    operator: str, inputs: Sequence[ir.Value], shape: Sequence[int],
    attributes: Mapping[str, ir.Attr | int | float | str | Sequence[int]] = types.MappingProxyType({}),
    name: str | None = None,
) -> ir.Node:  # fmt: skip
    """A node with one float32 output of this shape, not yet in a graph."""
    node = ir.node(operator, inputs, dict(attributes), name=name)
    node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(shape), ir.DataType.FLOAT
    return node


def replace(graph: ir.Graph, old: ir.Value, new: ir.Value, gone: Sequence[ir.Node] = ()) -> None:
    """Replace ``old`` by ``new`` and remove the nodes ``gone`` that are then unused, the last one first."""
    if new.shape is None:
        new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    for node in gone:
        graph.remove(node, safe=True)


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
