"""Computes both directions of a bidirectional scan at once, in tensors with an axis of two directions.

In the dense form (``microforge.ssm.dense``) each direction builds its own N x N mixing matrix from narrow tensors. The
layers of both were merged before (``merge_layers``), and their outputs lie beside each other, so that a reshape is
all it takes to compute the two matrices with half of the operators. The skip term D x becomes D on the diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

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
)

_Array = NDArray[np.float32]


@dataclass(frozen=True)
class _Direction:
    """One direction: outputs of its three layers, and two constants (N, N).

    ``sums`` maps log decays (heads, N), before they are scaled by ``rate``, to their sums along the scan; ``order`` is 1
    where one token comes before another.
    """

    decay: ir.Value
    b: ir.Value
    c: ir.Value
    rate: _Array
    sums: _Array
    order: _Array


def scan_directions(graph: ir.Graph, node: ir.Node) -> None:
    """Two sums of decays, two products and two mixing matrices -> one of each with an axis of directions.

    ``node`` is the addition of the skip term; see the module.
    """
    skip = _skip(node)
    mixed = None if skip is None else producer_of(node.inputs[0], "MatMul")
    plus = None if mixed is None else producer_of(mixed.inputs[0], "Add")
    if skip is None or mixed is None or plus is None or mixed.inputs[1] is not skip[1]:
        return
    sides = [_direction(value) for value in plus.inputs]
    first, second = sides
    if first is None or second is None or not np.array_equal(first.rate, second.rate):
        return
    pair = sorted((first, second), key=lambda side: side.b.index() or 0)
    split = pair[0].b.producer()
    if split is None or not _covers(split, pair):
        return
    mixing = _mixing(_Builder(graph, node), split, pair, skip[0])
    result = _apply(graph, node, mixing, skip[1])
    if result is not None:
        after = sole_user(node.outputs[0], "Transpose")
        assert after is not None
        replace(graph, after.outputs[0], result)


def _skip(node: ir.Node) -> tuple[_Array, ir.Value] | None:
    """D (heads,) and x (1, heads, N, P), if ``node`` adds D x and a transpose back to tokens follows."""
    times = producer_of(node.inputs[1], "Mul") if node.op_type == "Add" and len(node.inputs) == 2 else None
    weights = None if times is None else floats(times.inputs[0])
    after = sole_user(node.outputs[0], "Transpose")
    if times is None or weights is None or after is None:
        return None
    heads = shape_of(times.inputs[1])
    is_per_head = len(heads) == 4 and heads[0] == 1 and weights.shape == (1, heads[1], 1, 1)
    if not is_per_head or tuple(after.attributes["perm"].as_ints()) != (0, 2, 1, 3):
        return None
    return weights.reshape(-1), input_of(times, 1)


def _chain(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """The node that is reached from ``value`` by going up through the first inputs of ``operators``."""
    node = None
    for operator in operators:
        node = producer_of(value, operator)
        if node is None:
            return None
        value = node.inputs[0]
    return node


def _direction(value: ir.Value | None) -> _Direction | None:
    """The direction whose mixing matrix (1, heads, N, N) is ``value``."""
    times = producer_of(value, "Mul")
    clip = None if times is None else _chain(times.inputs[0], "Exp", "Clip")
    difference = None if clip is None else producer_of(clip.inputs[0], "Sub")
    masked = None if times is None else _chain(times.inputs[1], "Unsqueeze", "Mul")
    if times is None or clip is None or difference is None or masked is None:
        return None
    rows, columns = (producer_of(item, "Unsqueeze") for item in difference.inputs)
    if rows is None or columns is None or rows.inputs[0] is not columns.inputs[0]:
        return None
    sums = producer_of(rows.inputs[0], "MatMul")
    scaled = None if sums is None else _chain(sums.inputs[0], "Transpose", "Mul")
    sigmoid = None if scaled is None else producer_of(scaled.inputs[0], "Sigmoid")
    product = producer_of(masked.inputs[0], "MatMul")
    turned = None if product is None else producer_of(product.inputs[1], "Transpose")
    if sums is None or scaled is None or sigmoid is None or product is None or turned is None:
        return None
    limits = [None if item is None else floats(item) for item in clip.inputs[1:]]
    rate, order, to_sums = floats(scaled.inputs[1]), floats(masked.inputs[1]), floats(sums.inputs[1])
    is_clipped = len(limits) == 2 and limits[0] is None and limits[1] is not None and limits[1].item() == 0.0
    if (
        (integers(rows.inputs[1]), integers(columns.inputs[1])) != ((-1,), (-2,))
        or rate is None or rate.size != 1 or order is None or to_sums is None or not is_clipped
    ):  # fmt: skip
        return None
    return _Direction(input_of(sigmoid, 0), input_of(turned, 0), input_of(product, 0), rate, to_sums, order)


def _covers(split: ir.Node, pair: Sequence[_Direction]) -> bool:
    """Whether the layers of ``pair`` are exactly the outputs of ``split``, those of one kind beside each other."""
    parts = [value for kind in ("b", "c", "decay") for value in (getattr(side, kind) for side in pair)]
    return split.op_type == "Split" and list(split.outputs) == parts


@dataclass(frozen=True)
class _Builder:
    """Adds nodes before the node ``before``; every method returns the new output."""

    graph: ir.Graph
    before: ir.Node

    def add(
        self, operator: str, inputs: Sequence[ir.Value | None], shape: Sequence[int],
        attributes: Mapping[str, int | Sequence[int]] | None = None,
    ) -> ir.Value:  # fmt: skip
        node = ir.node(operator, inputs, dict(attributes or {}))
        node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(shape), ir.DataType.FLOAT
        self.graph.insert_before(self.before, node)
        return node.outputs[0]

    def reshape(self, value: ir.Value, *shape: int) -> ir.Value:
        return self.add("Reshape", [value, constant(self.graph, shape)], shape)

    def transpose(self, value: ir.Value, *order: int) -> ir.Value:
        return self.add("Transpose", [value], [shape_of(value)[axis] for axis in order], {"perm": order})

    def split(self, value: ir.Value, axis: int, widths: Sequence[int]) -> Sequence[ir.Value]:
        sizes, shape = constant(self.graph, widths), shape_of(value)
        node = ir.node("Split", [value, sizes], {"axis": axis}, num_outputs=len(widths))
        for output, width in zip(node.outputs, widths, strict=True):
            output.shape = ir.Shape([*shape[:axis], width, *shape[axis + 1 :]])
            output.dtype = ir.DataType.FLOAT
        self.graph.insert_before(self.before, node)
        return node.outputs


def _mixing(
    build: _Builder, split: ir.Node, pair: Sequence[_Direction], skip: NDArray[np.float32]
) -> ir.Value:
    """The mixing matrix of both directions with the skip term, (heads, N, N)."""
    graph, (tokens, state) = build.graph, shape_of(pair[0].b)[1:]
    heads = shape_of(pair[0].decay)[-1]
    b, c, decay = build.split(input_of(split, 0), 2, (2 * state, 2 * state, 2 * heads))
    decays = _decays(build, pair, build.reshape(decay, tokens, 2, heads))
    left = build.transpose(build.reshape(c, tokens, 2, state), 1, 0, 2)
    right = build.transpose(build.reshape(b, tokens, 2, state), 1, 2, 0)
    square = (2, tokens, tokens)
    order = _stacked(graph, "scan.order", [side.order for side in pair])
    products = build.add("Mul", [build.add("MatMul", [left, right], square), order], square)
    both = build.add("Mul", [decays, build.reshape(products, 2, 1, tokens, tokens)], shape_of(decays))
    # A sum over the axis of directions takes three times as long as this.
    total = build.add("Add", build.split(both, 0, (1, 1)), (1, heads, tokens, tokens))
    matrix = (heads, tokens, tokens)
    diagonal = skip[:, None, None] * np.eye(tokens, dtype=np.float32)
    name = f"{build.before.name}.skip"
    return build.add("Add", [build.reshape(total, *matrix), initializer(graph, name, diagonal)], matrix)


def _decays(build: _Builder, pair: Sequence[_Direction], decay: ir.Value) -> ir.Value:
    """The decay between every two tokens, (2, heads, N, N), from the layers' outputs (N, 2, heads)."""
    tokens, _, heads = shape_of(decay)
    to_sums = _stacked(build.graph, "scan.sums", [side.sums * side.rate.item() for side in pair])
    rates = build.transpose(build.add("Sigmoid", [decay], (tokens, 2, heads)), 1, 2, 0)
    sums = build.add("MatMul", [rates, to_sums], (2, heads, tokens))
    square = (2, heads, tokens, tokens)
    rows = build.reshape(sums, 2, heads, tokens, 1)
    columns = build.reshape(sums, 2, heads, 1, tokens)
    zero = initializer(build.graph, "scan.zero", np.array(0.0, np.float32))
    clipped = build.add("Clip", [build.add("Sub", [rows, columns], square), None, zero], square)
    return build.add("Exp", [clipped], square)


def _stacked(graph: ir.Graph, name: str, parts: Sequence[_Array]) -> ir.Value:
    """The constants of both directions; the name depends on the content, so that blocks with one path share it."""
    array = np.stack(parts).astype(np.float32)
    return initializer(graph, f"{name}.{sha256(array.tobytes()).hexdigest()[:8]}", array)


def _apply(graph: ir.Graph, node: ir.Node, mixing: ir.Value, x: ir.Value) -> ir.Value | None:
    """Mix the heads x (1, heads, N, P); returns tokens (1, N, heads, P)."""
    turned = producer_of(x, "Transpose")
    _, heads, tokens, width = shape_of(x)
    if turned is None or tuple(turned.attributes["perm"].as_ints()) != (0, 2, 1, 3):
        return None
    split = new_node(
        "Reshape", [input_of(turned, 0), constant(graph, (tokens, heads, width))], (tokens, heads, width)
    )
    turn = new_node("Transpose", split.outputs, (heads, tokens, width), {"perm": (1, 0, 2)})
    mixed = new_node("MatMul", [mixing, turn.outputs[0]], (heads, tokens, width))
    back = new_node("Transpose", mixed.outputs, (tokens, heads, width), {"perm": (1, 0, 2)})
    shape = (1, tokens, heads, width)
    last = new_node("Reshape", [back.outputs[0], constant(graph, shape)], shape)
    graph.insert_before(node, [split, turn, mixed, back, last])
    return last.outputs[0]
