"""Moves the tensors between convolutions to channels-last order: (1, C, H, W) -> (H W, C).

In this order the norm over channels is one operator of ONNX Runtime, an int8 convolution needs no transpose, and a
shuffle of channels to pixels copies whole rows. Standard ONNX has convolutions in channels-first order only, so each
one stands between two transposes, which engines cancel against those of their own channels-last kernels.

A tensor keeps its old producer until nothing reads it; ``lower.fold`` removes what is then unused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from microforge_export.components.component import SourceComponent
from microforge_export.components.operator_groups import digest, merged_name, parameter_names
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

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
#: Operators that treat every element alike, so that the order of axes does not matter to them.
_ELEMENTWISE = frozenset({"Add", "Mul", "Sub", "Div", "Pow", "Sqrt", "Reciprocal", "Sigmoid"})


@dataclass
class _Layout:
    """A graph that is rewritten.

    Attributes:
        graph: the graph.
        paths: digest of a weight -> name of its parameter.
        last: tensor (1, C, H, W) -> the same in channels-last order, (H W, C). Its two axes keep optimizers from
            moving the transposes back to where they were.
        moved: tensors that are computed in channels-last order only -> their copies in the order of the graph.
        originals: the inverse of ``moved``.
    """

    graph: ir.Graph
    paths: Mapping[bytes, str]
    last: dict[ir.Value, ir.Value] = field(default_factory=dict)
    moved: dict[ir.Value, ir.Value | None] = field(default_factory=dict)
    originals: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def insert(
        self, node: ir.Node, operator: str, inputs: Sequence[ir.Value], shape: Sequence[int],
        attributes: Mapping[str, ir.Attr | int | Sequence[int]] | None = None, name: str | None = None,
    ) -> ir.Value:  # fmt: skip
        """The output of a new node that stands before ``node``."""
        new = new_node(operator, inputs, shape, attributes or {}, name)
        self.graph.insert_before(node, new)
        return new.outputs[0]

    def reshape(self, node: ir.Node, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        return self.insert(node, "Reshape", [value, constant(self.graph, shape)], shape)

    def transpose(self, node: ir.Node, value: ir.Value, order: Sequence[int]) -> ir.Value:
        shape = [shape_of(value)[axis] for axis in order]
        return self.insert(node, "Transpose", [value], shape, {"perm": order})

    def channels_last(self, value: ir.Value, node: ir.Node) -> ir.Value:
        """``value`` in channels-last order, for a node that stands before ``node``."""
        if value not in self.last:
            wide = self.transpose(node, value, _TO_LAST)
            self.last[value] = self.reshape(node, wide, _flat(shape_of(value)))
        return self.last[value]

    def channels_first(self, value: ir.Value, node: ir.Node) -> ir.Value:
        """``value``, transposed back if it is computed in channels-last order."""
        if value not in self.moved:
            return value
        back = self.moved[value]
        if back is None:
            wide = self.reshape(node, self.last[value], [shape_of(value)[axis] for axis in _TO_LAST])
            back = self.moved[value] = self.transpose(node, wide, _TO_FIRST)
            self.originals[back] = value
        return back

    def move(self, value: ir.Value, computed: ir.Value) -> None:
        """Note that ``value`` is now computed as ``computed``, in channels-last order."""
        self.last[value], self.moved[value] = computed, None


def channels_last(model: ir.Model, component: SourceComponent) -> ir.Model:
    """Rewrite everything between the convolutions of ``model``, in place; returns ``model``.

    Only full convolutions count: a graph of tokens with depth-wise convolutions inside is left as it is.
    """
    nodes = list(model.graph)
    if not any(_is_full_convolution(node) for node in nodes):
        return model
    layout = _Layout(model.graph, parameter_names(component))
    for node in nodes:
        _scaled_output(layout, node)
    nodes = list(model.graph)
    for node in nodes:
        if not (_shuffle(layout, node) or _channel_mean(layout, node) or _elementwise(layout, node)):
            for position, value in enumerate(node.inputs):
                if value is not None and value in layout.moved:
                    node.replace_input_with(position, layout.channels_first(value, node))
    for value in list(model.graph.outputs):
        if value in layout.moved:
            producer = value.producer()
            assert producer is not None
            result, value.name, name = layout.channels_first(value, producer), None, value.name
            replace(model.graph, value, result)
            result.name = name
    return model


def _flat(shape: Sequence[int]) -> tuple[int, int]:
    _, channels, height, width = shape
    return height * width, channels


def _is_full_convolution(node: ir.Node) -> bool:
    group = node.attributes.get("group")
    return node.op_type == "Conv" and (group is None or group.as_int() == 1)


def _follows_convolutions(layout: _Layout, value: ir.Value) -> bool:
    producer = value.producer()
    return value in layout.last or (producer is not None and _is_full_convolution(producer))


def _elementwise(layout: _Layout, node: ir.Node) -> bool:
    """An operator on single elements, with tensors of four axes, scalars, and constants (1, C, 1, 1)."""
    inputs = [value for value in node.inputs if value is not None]
    if node.op_type not in _ELEMENTWISE or len(shape_of(node.outputs[0])) != 4:
        return False
    is_square = sole_user(node.outputs[0], "ReduceMean") is not None  # of a norm
    if not is_square and not any(_follows_convolutions(layout, value) for value in inputs):
        return False
    if sole_user(node.outputs[0], "DepthToSpace") is not None:  # see _shuffle
        return False
    constants = {value: _channel_constant(layout.graph, value) for value in inputs if value.const_value}
    if any(item is None for item in constants.values()):
        return False
    if any(value not in constants and len(shape_of(value)) != 4 for value in inputs):
        return False
    operands = [constants.get(value) or layout.channels_last(value, node) for value in inputs]
    shape = _flat(shape_of(node.outputs[0]))
    layout.move(node.outputs[0], layout.insert(node, node.op_type, operands, shape, node.attributes))
    return True


def _channel_constant(graph: ir.Graph, value: ir.Value) -> ir.Value | None:
    """A scalar as it is, a constant (1, C, 1, 1) as vector (C,); None for other shapes."""
    numbers = floats(value)
    if numbers is None or numbers.size == 1:
        return None if numbers is None else value
    if numbers.ndim != 4 or numbers.size != numbers.shape[1]:
        return None
    return initializer(graph, f"{value.name}.vector", numbers.reshape(-1))


def _channel_mean(layout: _Layout, node: ir.Node) -> bool:
    """The mean over channels."""
    if node.op_type != "ReduceMean" or integers(node.inputs[1]) != (1,) or len(shape_of(node.inputs[0])) != 4:
        return False
    if not _follows_convolutions(layout, input_of(node, 0)) or len(shape_of(node.outputs[0])) != 4:
        return False
    source = layout.channels_last(input_of(node, 0), node)
    shape = [*shape_of(source)[:-1], 1]
    axes = constant(layout.graph, (-1,))
    layout.move(
        node.outputs[0], layout.insert(node, "ReduceMean", [source, axes], shape, {"keepdims": 1}, node.name)
    )
    return True


def _scaled_output(layout: _Layout, node: ir.Node) -> None:
    """``a y + b`` with numbers a and b, of a convolution y whose pixels may be shuffled -> in its weight and bias."""
    plus = sole_user(node.outputs[0], "Add") if node.op_type == "Mul" and node.graph is not None else None
    factor = None if plus is None else floats(node.inputs[1])
    offset = None if plus is None else floats(plus.inputs[1])
    shuffle = producer_of(node.inputs[0], "DepthToSpace")
    convolution = producer_of(node.inputs[0] if shuffle is None else shuffle.inputs[0], "Conv")
    if plus is None or factor is None or offset is None or factor.size != 1 or offset.size != 1:
        return
    if convolution is None or len(convolution.inputs) != 3:
        return
    weight, bias = (floats(value) for value in convolution.inputs[1:])
    path = None if weight is None else layout.paths.get(digest(weight))
    sole = len(convolution.outputs[0].uses()) == 1 and len(input_of(node, 0).uses()) == 1
    if weight is None or bias is None or path is None or not sole:
        return
    name = f"{merged_name([path])}.scaled"
    scaled = (weight * factor.item(), bias * factor.item() + offset.item())
    for position, (part, array) in enumerate(zip(("weight", "bias"), scaled, strict=True), start=1):
        convolution.replace_input_with(
            position, initializer(layout.graph, f"{name}.{part}", array.astype(np.float32))
        )
    replace(layout.graph, plus.outputs[0], input_of(node, 0), [plus, node])


def _shuffle(layout: _Layout, node: ir.Node) -> bool:
    """Depth to space of a convolution plus repeated channels: rows are copied, the repetition is a broadcast.

    The channels of the convolution are put in the order (row, column, channel) of the block.
    """
    plus = producer_of(input_of(node, 0), "Add") if node.op_type == "DepthToSpace" else None
    if (
        plus is None
        or node.attributes["mode"].as_string() != "CRD"
        or sole_user(plus.outputs[0], "DepthToSpace") is None
    ):
        return False
    block = node.attributes["blocksize"].as_int()
    convolution, repeated = producer_of(input_of(plus, 0), "Conv"), _repeated(layout, input_of(plus, 1))
    if convolution is None or not _is_full_convolution(convolution) or repeated is None:
        return False
    if sole_user(convolution.outputs[0], "Add") is None:
        return False
    _, channels, height, width = shape_of(input_of(node, 0))
    outer = channels // block**2
    rows = _shortcut(layout, node, repeated, outer, block)
    if rows is None or not _shuffle_outputs(layout, convolution, outer, block):
        return False
    wide = layout.channels_last(convolution.outputs[0], node)
    wide = layout.reshape(node, wide, (height, width, block, block * outer))
    wide = layout.transpose(node, wide, (0, 2, 1, 3))
    shape = (height, block, width, block, outer)
    total = layout.insert(node, "Add", [layout.reshape(node, wide, shape), rows], shape)
    layout.move(node.outputs[0], layout.reshape(node, total, (height * width * block**2, outer)))
    return True


def _repeated(layout: _Layout, value: ir.Value) -> ir.Value | None:
    """The x (1, C, H, W) of which ``value`` repeats every channel: unsqueezed, expanded and reshaped."""
    flat = producer_of(value, "Reshape")
    wide = None if flat is None else producer_of(flat.inputs[0], "Expand")
    thin = None if wide is None else producer_of(wide.inputs[0], "Unsqueeze")
    if thin is None or integers(thin.inputs[1]) != (2,) or len(shape_of(thin.inputs[0])) != 4:
        return None
    source = input_of(thin, 0)
    return layout.originals.get(source, source)


def _shortcut(layout: _Layout, node: ir.Node, source: ir.Value, outer: int, block: int) -> ir.Value | None:
    """Repeated channels after the shuffle, (H, block, W, 1, outer), broadcast over the columns of a block."""
    _, inner, height, width = shape_of(source)
    if inner == outer:  # a pixel becomes a block of equal pixels
        return layout.reshape(node, layout.channels_last(source, node), (height, 1, width, 1, outer))
    if inner != outer * block:  # else a channel is one row of a block
        return None
    split = layout.reshape(node, layout.channels_last(source, node), (height, width, outer, block))
    return layout.reshape(node, layout.transpose(node, split, (0, 3, 1, 2)), (height, block, width, 1, outer))


def _shuffle_outputs(layout: _Layout, convolution: ir.Node, outer: int, block: int) -> bool:
    """Put the output channels of ``convolution`` from the order (channel, row, column) in (row, column, channel)."""
    arrays = [floats(value) for value in convolution.inputs[1:]]
    path = None if not arrays or arrays[0] is None else layout.paths.get(digest(arrays[0]))
    if path is None or any(array is None for array in arrays):
        return False
    order = np.arange(outer * block**2).reshape(outer, block, block).transpose(1, 2, 0).reshape(-1)
    for position, (part, array) in enumerate(zip(("weight", "bias"), arrays, strict=False), start=1):
        name = f"{merged_name([path])}.shuffled.{part}"
        convolution.replace_input_with(position, initializer(layout.graph, name, _taken(array, order)))
    return True


def _taken(array: NDArray[np.float32] | None, order: NDArray[np.intp]) -> NDArray[np.float32]:
    assert array is not None
    return np.ascontiguousarray(array[order])
