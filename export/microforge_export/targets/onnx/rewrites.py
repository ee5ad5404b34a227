"""Rewrites an fp32 ONNX graph into fewer operators with the same result.

With a few hundred tokens an operator takes longer to start than to run, so every operator less makes a graph
faster. Every rule maps standard ONNX to standard ONNX, for static shapes and batch 1. A node that does not match the
pattern of a rule is left unchanged. To add a rule, write it as a function here and list it in ``fewer_operators``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from microforge_export.targets.onnx.graph import constant, sole_user, users

#: Operators that broadcast a vector like a tensor with leading axes of length 1.
_ELEMENTWISE = ("Add", "Mul", "Sub", "Div")


def fewer_operators(model: ir.Model) -> ir.Model:
    """Apply every rule of this module to ``model``, in place; returns ``model``."""
    graph = model.graph
    rules = (
        vectors_by_split, modulated_norm, root_mean_square, bias_without_reshape, broadcast_without_unsqueeze,
        heads_without_batch,
    )  # fmt: skip
    for rule in rules:
        for node in list(graph):
            if node.graph is not None:  # an earlier match may have removed it
                rule(graph, node)
    return model


def vectors_by_split(graph: ir.Graph, node: ir.Node) -> None:
    """Unsqueeze and n gathers that take rows (1, 1, D) of (1, n, D) -> one split into vectors (D,)."""
    if node.op_type != "Unsqueeze":
        return
    rows, gathers = _input(node, 0), users(node.outputs[0])
    shape = _shape(rows)
    if len(shape) != 3 or shape[0] != 1 or _numbers(_input(node, 1)) != (2,):
        return
    indices = [_numbers(user.inputs[1]) for user in gathers if _is(user, "Gather", axis=1)]
    elementwise = all(later.op_type in _ELEMENTWISE for user in gathers for later in users(user.outputs[0]))
    if len(indices) != len(gathers) or any(len(at) != 1 for at in indices) or not elementwise or not gathers:
        return
    count, width = shape[1:]
    flat = _node("Reshape", [rows, constant(graph, (-1,))], (count * width,))
    split = ir.node(
        "Split", [flat.outputs[0], constant(graph, (width,) * count)], {"axis": 0}, num_outputs=count
    )
    for output in split.outputs:
        output.shape, output.dtype = ir.Shape([width]), ir.DataType.FLOAT
    graph.insert_before(node, [flat, split])
    for user, (index,) in zip(gathers, indices, strict=True):
        _replace(graph, user.outputs[0], split.outputs[index], [user])
        for later in users(split.outputs[index]):
            if _shape(later.outputs[0]) == (1, 1, width):
                later.outputs[0].shape = ir.Shape([width])
    graph.remove(node, safe=True)


def modulated_norm(graph: ir.Graph, node: ir.Node) -> None:
    """``norm(x) * gain + shift`` with computed vectors (D,) -> one layer norm with them as scale and bias."""
    if node.op_type != "LayerNormalization" or len(node.inputs) != 2 or not _all_ones(_input(node, 1)):
        return
    times = sole_user(node.outputs[0], "Mul")
    plus = None if times is None else sole_user(times.outputs[0], "Add")
    if times is None or plus is None or _input(times, 0) is not node.outputs[0]:
        return
    if _input(plus, 0) is not times.outputs[0]:
        return
    shape = _shape(_input(node, 0))
    if not shape:
        return
    width = shape[-1]
    vectors = [_input(times, 1), _input(plus, 1)]
    if any(_size(value) != width or _shape(value)[-1:] != (width,) for value in vectors):
        return
    inputs = [_as_vector(graph, value, plus) for value in vectors]
    epsilon = node.attributes["epsilon"].as_float()
    norm = ir.node(
        "LayerNormalization", [_input(node, 0), *inputs], {"axis": -1, "epsilon": epsilon}, name=node.name
    )
    graph.insert_before(plus, norm)
    _replace(graph, plus.outputs[0], norm.outputs[0], [plus, times, node])


def root_mean_square(graph: ir.Graph, node: ir.Node) -> None:
    """``x * (1 / sqrt(m))`` -> ``x / sqrt(m)`` over the last axis, which ONNX Runtime recognises as an RMS norm."""
    if node.op_type != "Reciprocal":
        return
    root, times = _input(node, 0).producer(), sole_user(node.outputs[0], "Mul")
    if root is None or root.op_type != "Sqrt" or times is None or _input(times, 1) is not node.outputs[0]:
        return
    if _shape(node.outputs[0])[-1:] != (1,):
        return
    divided = ir.node("Div", [_input(times, 0), root.outputs[0]], name=times.name)
    graph.insert_before(times, divided)
    _replace(graph, times.outputs[0], divided.outputs[0], [times, node])


def bias_without_reshape(graph: ir.Graph, node: ir.Node) -> None:
    """(h, N, M) reshaped to (1, h, N, M), plus (1, 1, 1, M), reshaped back -> plus (M,) without reshapes."""
    if node.op_type != "Add":
        return
    before, bias = _input(node, 0).producer(), _input(node, 1)
    after = sole_user(node.outputs[0], "Reshape")
    if before is None or before.op_type != "Reshape" or after is None or len(users(before.outputs[0])) != 1:
        return
    shape = _shape(_input(before, 0))
    if (
        _shape(node.outputs[0]) != (1, *shape)
        or _shape(after.outputs[0]) != shape
        or _shape(bias)[:-1] != (1, 1, 1)
    ):
        return
    source = bias.producer()
    flat = _input(source, 0) if source is not None and source.op_type == "Reshape" else None
    if flat is None or len(_shape(flat)) > len(shape) or _shape(flat)[-1:] != (_size(bias),):
        return
    added = ir.node("Add", [_input(before, 0), flat], name=node.name)
    graph.insert_before(node, added)
    _replace(graph, after.outputs[0], added.outputs[0], [after, node, before])


def broadcast_without_unsqueeze(graph: ir.Graph, node: ir.Node) -> None:
    """(1, N, M) unsqueezed to (1, 1, N, M) for an operator that broadcasts it anyway -> without unsqueeze."""
    if (
        node.op_type != "Unsqueeze"
        or _numbers(_input(node, 1)) != (1,)
        or _shape(_input(node, 0))[:1] != (1,)
    ):
        return
    wide, readers = node.outputs[0], users(node.outputs[0])
    others = [value for user in readers for value in user.inputs if value is not wide]
    elementwise = all(user.op_type in _ELEMENTWISE for user in readers)
    if elementwise and others and all(len(_shape(value)) >= len(_shape(wide)) for value in others):
        _replace(graph, wide, _input(node, 0), [node])


def heads_without_batch(graph: ir.Graph, node: ir.Node) -> None:
    """A transpose of (1, a, b, c) between reshapes -> a transpose of (a, b, c) and one reshape less."""
    if node.op_type != "Transpose" or len(_shape(node.outputs[0])) != 4:
        return
    perm = tuple(node.attributes["perm"].as_ints())
    before, after = _input(node, 0).producer(), sole_user(node.outputs[0], "Reshape")
    if perm[0] != 0 or _shape(node.outputs[0])[0] != 1 or before is None or before.op_type != "Reshape":
        return
    inner, shorter = _shape(_input(node, 0))[1:], tuple(axis - 1 for axis in perm[1:])
    transposed = tuple(inner[axis] for axis in shorter)
    opens = _shape(_input(before, 0)) == inner
    closes = after is not None and _shape(after.outputs[0]) == transposed
    if not (opens or closes) or after is None or len(users(before.outputs[0])) != 1:
        return
    first = [] if opens else [_node("Reshape", [_input(before, 0), constant(graph, inner)], inner)]
    source = first[0].outputs[0] if first else _input(before, 0)
    transpose = ir.node("Transpose", [source], {"perm": shorter}, name=node.name)
    transpose.outputs[0].shape, transpose.outputs[0].dtype = ir.Shape(transposed), ir.DataType.FLOAT
    graph.insert_before(node, [*first, transpose])
    if closes:
        _replace(graph, after.outputs[0], transpose.outputs[0], [after, node, before])
    else:
        after.replace_input_with(0, transpose.outputs[0])
        graph.remove([node, before], safe=True)


def _node(operator: str, inputs: Sequence[ir.Value], shape: Sequence[int]) -> ir.Node:
    node = ir.node(operator, inputs)
    node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(shape), ir.DataType.FLOAT
    return node


def _as_vector(graph: ir.Graph, value: ir.Value, before: ir.Node) -> ir.Value:
    """``value`` with one axis; if it has more, by a reshape that is inserted before the node ``before``."""
    if len(_shape(value)) == 1:
        return value
    flat = _node("Reshape", [value, constant(graph, (-1,))], (_size(value),))
    graph.insert_before(before, flat)
    return flat.outputs[0]


def _replace(graph: ir.Graph, old: ir.Value, new: ir.Value, gone: Sequence[ir.Node]) -> None:
    """Replace ``old`` by ``new`` and remove the nodes ``gone`` that are then unused, the last one first."""
    if new.shape is None:
        new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    for node in gone:
        graph.remove(node, safe=True)


def _input(node: ir.Node, position: int) -> ir.Value:
    """A required input of the operator."""
    value = node.inputs[position]
    assert value is not None
    return value


def _is(node: ir.Node, operator: str, **attributes: int) -> bool:
    return node.op_type == operator and all(
        name in node.attributes and node.attributes[name].value == value for name, value in attributes.items()
    )


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    """The shape; empty if it is unknown or not static."""
    return () if value is None or value.shape is None or not value.shape.is_static() else value.shape.numpy()


def _size(value: ir.Value) -> int:
    return int(np.prod(_shape(value), dtype=np.int64))


def _numbers(value: ir.Value | None) -> tuple[int, ...]:
    """The values of an int64 constant; empty for anything else."""
    tensor = None if value is None else value.const_value
    if tensor is None or tensor.dtype != ir.DataType.INT64:
        return ()
    return tuple(int(number) for number in np.atleast_1d(tensor.numpy()))


def _all_ones(value: ir.Value | None) -> bool:
    tensor = None if value is None else value.const_value
    return tensor is not None and bool((tensor.numpy() == 1).all())
