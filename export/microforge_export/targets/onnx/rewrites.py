"""Rewrites an fp32 ONNX graph into fewer operators with the same result.

With a few hundred tokens an operator takes longer to start than to run, so every operator less makes a graph
faster. Every rule maps standard ONNX to standard ONNX, for static shapes and batch 1. A node that does not match the
pattern of a rule is left unchanged. To add a rule, write it as a function here and list it in ``fewer_operators``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from microforge_export.targets.onnx.graph import (
    constant,
    floats,
    initializer,
    input_of,
    integers,
    new_node,
    producer_of,
    replace,
    shape_of,
    sole_user,
    users,
)
from microforge_export.targets.onnx.scan_directions import scan_directions

#: Operators that broadcast a vector like a tensor with leading axes of length 1.
_ELEMENTWISE = ("Add", "Mul", "Sub", "Div")


def fewer_operators(model: ir.Model) -> ir.Model:
    """Apply every rule of this module to ``model``, in place; returns ``model``."""
    graph = model.graph
    rules = (
        scan_directions, vectors_by_split, modulated_norm, root_mean_square, bias_without_reshape,
        broadcast_without_unsqueeze, heads_without_batch, shift_in_table, positions_in_product, norm_without_skip,
        convolution_of_tokens,
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
    rows, gathers = input_of(node, 0), users(node.outputs[0])
    shape = shape_of(rows)
    if len(shape) != 3 or shape[0] != 1 or integers(input_of(node, 1)) != (2,):
        return
    indices = [integers(user.inputs[1]) for user in gathers if _is(user, "Gather", axis=1)]
    elementwise = all(later.op_type in _ELEMENTWISE for user in gathers for later in users(user.outputs[0]))
    if len(indices) != len(gathers) or any(len(at) != 1 for at in indices) or not elementwise or not gathers:
        return
    count, width = shape[1:]
    flat = new_node("Reshape", [rows, constant(graph, (-1,))], (count * width,))
    split = ir.node(
        "Split", [flat.outputs[0], constant(graph, (width,) * count)], {"axis": 0}, num_outputs=count
    )
    for output in split.outputs:
        output.shape, output.dtype = ir.Shape([width]), ir.DataType.FLOAT
    graph.insert_before(node, [flat, split])
    for user, (index,) in zip(gathers, indices, strict=True):
        replace(graph, user.outputs[0], split.outputs[index], [user])
        for later in users(split.outputs[index]):
            if shape_of(later.outputs[0]) == (1, 1, width):
                later.outputs[0].shape = ir.Shape([width])
    graph.remove(node, safe=True)


def modulated_norm(graph: ir.Graph, node: ir.Node) -> None:
    """``norm(x) * gain + shift`` with computed vectors (D,) -> one layer norm with them as scale and bias."""
    if node.op_type != "LayerNormalization" or len(node.inputs) != 2 or not _all_ones(input_of(node, 1)):
        return
    times = sole_user(node.outputs[0], "Mul")
    plus = None if times is None else sole_user(times.outputs[0], "Add")
    if times is None or plus is None or input_of(times, 0) is not node.outputs[0]:
        return
    if input_of(plus, 0) is not times.outputs[0]:
        return
    shape = shape_of(input_of(node, 0))
    if not shape:
        return
    width = shape[-1]
    vectors = [input_of(times, 1), input_of(plus, 1)]
    if any(_size(value) != width or shape_of(value)[-1:] != (width,) for value in vectors):
        return
    inputs = [_as_vector(graph, value, plus) for value in vectors]
    epsilon = node.attributes["epsilon"].as_float()
    norm = ir.node(
        "LayerNormalization", [input_of(node, 0), *inputs], {"axis": -1, "epsilon": epsilon}, name=node.name
    )
    graph.insert_before(plus, norm)
    replace(graph, plus.outputs[0], norm.outputs[0], [plus, times, node])


def root_mean_square(graph: ir.Graph, node: ir.Node) -> None:
    """``x * (1 / sqrt(m))`` -> ``x / sqrt(m)`` over the last axis, which ONNX Runtime recognises as an RMS norm."""
    if node.op_type != "Reciprocal":
        return
    root, times = input_of(node, 0).producer(), sole_user(node.outputs[0], "Mul")
    if root is None or root.op_type != "Sqrt" or times is None or input_of(times, 1) is not node.outputs[0]:
        return
    if shape_of(node.outputs[0])[-1:] != (1,):
        return
    divided = ir.node("Div", [input_of(times, 0), root.outputs[0]], name=times.name)
    graph.insert_before(times, divided)
    replace(graph, times.outputs[0], divided.outputs[0], [times, node])


def bias_without_reshape(graph: ir.Graph, node: ir.Node) -> None:
    """(h, N, M) reshaped to (1, h, N, M), plus (1, 1, 1, M), reshaped back -> plus (M,) without reshapes."""
    if node.op_type != "Add":
        return
    before, bias = input_of(node, 0).producer(), input_of(node, 1)
    after = sole_user(node.outputs[0], "Reshape")
    if before is None or before.op_type != "Reshape" or after is None or len(users(before.outputs[0])) != 1:
        return
    shape = shape_of(input_of(before, 0))
    if (
        shape_of(node.outputs[0]) != (1, *shape)
        or shape_of(after.outputs[0]) != shape
        or shape_of(bias)[:-1] != (1, 1, 1)
    ):
        return
    source = bias.producer()
    flat = input_of(source, 0) if source is not None and source.op_type == "Reshape" else None
    if flat is None or len(shape_of(flat)) > len(shape) or shape_of(flat)[-1:] != (_size(bias),):
        return
    added = ir.node("Add", [input_of(before, 0), flat], name=node.name)
    graph.insert_before(node, added)
    replace(graph, after.outputs[0], added.outputs[0], [after, node, before])


def broadcast_without_unsqueeze(graph: ir.Graph, node: ir.Node) -> None:
    """(1, N, M) unsqueezed to (1, 1, N, M) for an operator that broadcasts it anyway -> without unsqueeze."""
    if (
        node.op_type != "Unsqueeze"
        or integers(input_of(node, 1)) != (1,)
        or shape_of(input_of(node, 0))[:1] != (1,)
    ):
        return
    wide, readers = node.outputs[0], users(node.outputs[0])
    others = [value for user in readers for value in user.inputs if value is not wide]
    elementwise = all(user.op_type in _ELEMENTWISE for user in readers)
    if elementwise and others and all(len(shape_of(value)) >= len(shape_of(wide)) for value in others):
        replace(graph, wide, input_of(node, 0), [node])


def heads_without_batch(graph: ir.Graph, node: ir.Node) -> None:
    """A transpose of (1, a, b, c) between reshapes -> a transpose of (a, b, c) and one reshape less."""
    if node.op_type != "Transpose" or len(shape_of(node.outputs[0])) != 4:
        return
    perm = tuple(node.attributes["perm"].as_ints())
    before, after = input_of(node, 0).producer(), sole_user(node.outputs[0], "Reshape")
    if perm[0] != 0 or shape_of(node.outputs[0])[0] != 1 or before is None or before.op_type != "Reshape":
        return
    inner, shorter = shape_of(input_of(node, 0))[1:], tuple(axis - 1 for axis in perm[1:])
    transposed = tuple(inner[axis] for axis in shorter)
    opens = shape_of(input_of(before, 0)) == inner
    closes = after is not None and shape_of(after.outputs[0]) == transposed
    if not (opens or closes) or after is None or len(users(before.outputs[0])) != 1:
        return
    first = [] if opens else [new_node("Reshape", [input_of(before, 0), constant(graph, inner)], inner)]
    source = first[0].outputs[0] if first else input_of(before, 0)
    transpose = ir.node("Transpose", [source], {"perm": shorter}, name=node.name)
    transpose.outputs[0].shape, transpose.outputs[0].dtype = ir.Shape(transposed), ir.DataType.FLOAT
    graph.insert_before(node, [*first, transpose])
    if closes:
        replace(graph, after.outputs[0], transpose.outputs[0], [after, node, before])
    else:
        after.replace_input_with(0, transpose.outputs[0])
        graph.remove([node, before], safe=True)


def shift_in_table(graph: ir.Graph, node: ir.Node) -> None:
    """A number added to one part of a split of (x + table) -> the number added to the constant table."""
    number = floats(node.inputs[1]) if node.op_type == "Add" else None
    split = None if number is None or number.size != 1 else producer_of(node.inputs[0], "Split")
    flat = None if split is None else producer_of(split.inputs[0], "Reshape")
    plus = None if flat is None else producer_of(flat.inputs[0], "Add")
    table = None if plus is None else floats(plus.inputs[1])
    if number is None or split is None or flat is None or plus is None or table is None:
        return
    part, sizes = node.inputs[0], integers(split.inputs[1])
    sole = all(
        len(users(value)) == 1 for value in (plus.outputs[0], flat.outputs[0], part) if value is not None
    )
    if not sole or len(set(sizes)) != 1 or sizes[0] * len(sizes) != table.size:
        return
    index, name = split.outputs.index(part), input_of(plus, 1).name
    shifted = table.reshape(len(sizes), sizes[0]).copy()
    shifted[index] += number.item()
    plus.replace_input_with(1, initializer(graph, f"{name}.shifted.{index}", shifted.reshape(table.shape)))
    replace(graph, node.outputs[0], split.outputs[index], [node])


def positions_in_product(graph: ir.Graph, node: ir.Node) -> None:
    """``x W + bias + positions`` with constants (D,) and (1, N, D) -> one Gemm whose bias is their sum (N, D)."""
    positions = floats(node.inputs[1]) if node.op_type == "Add" else None
    biased = None if positions is None else producer_of(node.inputs[0], "Add")
    product = None if biased is None else producer_of(biased.inputs[0], "MatMul")
    bias = None if biased is None else floats(biased.inputs[1])
    if positions is None or biased is None or product is None or bias is None:
        return
    shape, source = shape_of(input_of(product, 0)), input_of(product, 0)
    sole = len(users(biased.outputs[0])) == len(users(product.outputs[0])) == 1
    if not sole or floats(product.inputs[1]) is None or len(shape) != 3 or shape[0] != 1:
        return
    if positions.shape != shape_of(node.outputs[0]) or bias.ndim != 1:
        return
    turned = producer_of(source, "Transpose")
    if turned is not None and tuple(turned.attributes["perm"].as_ints()) == (0, 2, 1):
        source, shape = input_of(turned, 0), shape_of(turned.inputs[0])
    else:
        turned = None
    name = f"{input_of(biased, 1).name}.at_positions"
    flat = new_node("Reshape", [source, constant(graph, shape[1:])], shape[1:])
    inputs = [flat.outputs[0], input_of(product, 1), initializer(graph, name, positions[0] + bias)]
    gemm = new_node("Gemm", inputs, positions.shape[1:], {"transA": int(turned is not None)}, product.name)
    result = new_node("Reshape", [gemm.outputs[0], constant(graph, positions.shape)], positions.shape)
    graph.insert_before(node, [flat, gemm, result])
    replace(graph, node.outputs[0], result.outputs[0], [node, biased, product])


def norm_without_skip(graph: ir.Graph, node: ir.Node) -> None:
    """The norm of a sum (1, N, D) that nothing else reads -> the same without the batch axis.

    ONNX Runtime replaces a sum and its norm by one operator, which takes six times as long as the two.
    """
    plus = producer_of(node.inputs[0], "Add") if node.op_type == "LayerNormalization" else None
    if plus is None or sole_user(plus.outputs[0], "LayerNormalization") is None:
        return
    shape = shape_of(plus.outputs[0])
    if len(shape) != 3 or shape[0] != 1 or any(shape_of(value) != shape for value in plus.inputs):
        return
    flat = new_node("Reshape", [plus.outputs[0], constant(graph, shape[1:])], shape[1:])
    inputs = [flat.outputs[0], *(value for value in node.inputs[1:] if value is not None)]
    norm = new_node("LayerNormalization", inputs, shape[1:], node.attributes, node.name)
    result = new_node("Reshape", [norm.outputs[0], constant(graph, shape)], shape)
    graph.insert_before(node, [flat, norm, result])
    name = node.outputs[0].name
    replace(graph, node.outputs[0], result.outputs[0], [node])
    result.outputs[0].name = name


def convolution_of_tokens(graph: ir.Graph, node: ir.Node) -> None:
    """Tokens (1, N, C) transposed to (1, C, N) around the convolution of a grid -> transposes of (1, H, W, C).

    Engines with channels-last kernels absorb these, but not the others.
    """
    before = producer_of(node.inputs[0], "Reshape") if node.op_type == "Conv" else None
    turned = None if before is None else producer_of(before.inputs[0], "Transpose")
    after = sole_user(node.outputs[0], "Reshape")
    back = None if after is None else sole_user(after.outputs[0], "Transpose")
    if before is None or turned is None or back is None or sole_user(before.outputs[0], "Conv") is None:
        return
    tokens, grid = shape_of(turned.inputs[0]), shape_of(node.inputs[0])
    out = shape_of(node.outputs[0])
    if not all(tuple(item.attributes["perm"].as_ints()) == (0, 2, 1) for item in (turned, back)):
        return
    if len(tokens) != 3 or len(grid) != 4 or tokens[2] != grid[1] or len(out) != 4:
        return
    last, out_last = (grid[0], *grid[2:], grid[1]), (out[0], *out[2:], out[1])
    wide = new_node("Reshape", [input_of(turned, 0), constant(graph, last)], last)
    first = new_node("Transpose", wide.outputs, grid, {"perm": (0, 3, 1, 2)})
    graph.insert_before(node, [wide, first])
    node.replace_input_with(0, first.outputs[0])
    turn = new_node("Transpose", node.outputs, out_last, {"perm": (0, 2, 3, 1)})
    shape = shape_of(back.outputs[0])
    flat = new_node("Reshape", [turn.outputs[0], constant(graph, shape)], shape)
    graph.insert_after(node, [turn, flat])
    replace(graph, back.outputs[0], flat.outputs[0], [back])


def _as_vector(graph: ir.Graph, value: ir.Value, before: ir.Node) -> ir.Value:
    """``value`` with one axis; if it has more, by a reshape that is inserted before the node ``before``."""
    if len(shape_of(value)) == 1:
        return value
    flat = new_node("Reshape", [value, constant(graph, (-1,))], (_size(value),))
    graph.insert_before(before, flat)
    return flat.outputs[0]


def _is(node: ir.Node, operator: str, **attributes: int) -> bool:
    return node.op_type == operator and all(
        name in node.attributes and node.attributes[name].value == value for name, value in attributes.items()
    )


def _size(value: ir.Value) -> int:
    return int(np.prod(shape_of(value), dtype=np.int64))


def _all_ones(value: ir.Value | None) -> bool:
    tensor = None if value is None else value.const_value
    return tensor is not None and bool((tensor.numpy() == 1).all())
