"""Layers that read the same tensor become one wide product: ``x W1``, ``x W2`` -> ``x [W1 W2]``, then a split.

Queries, keys and values of an attention, the two halves of a gate, the keys and values that every block makes of the
text: narrow products of few tokens cost more to start than to compute, and in INT8 each would quantize its input
again. The numbers stay the same, each column has its own sum and its own scale.

Only layers of one operator group are merged, so that a recipe means the same with and without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from microforge_export.components.component import SourceComponent
from microforge_export.components.operator_groups import (
    digest,
    group_of,
    merged_name,
    parameter_names,
)
from microforge_export.targets.onnx.graph import constant, initializer, sole_user

#: What a Gemm's attributes are where it does not give them.
_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


@dataclass(frozen=True)
class _Layer:
    """``y = x W + b`` as the exporter writes it: one Gemm (W of (N, K)), or MatMul (W of (K, N)) and Add."""

    path: str  # of the parameter
    product: ir.Node
    last: ir.Node  # gives y
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def merge_layers(model: ir.Model, component: SourceComponent) -> ir.Model:
    """``model``, changed in place: layers with the same input and group as one, in the order of their parameters' names.

    That order does not depend on the image size, so graphs of several sizes go on to share weights.
    """
    paths = parameter_names(component)
    found: dict[tuple[int, str, str], list[_Layer]] = {}
    for node in model.graph:
        layer = _layer(node, paths)
        if layer is not None:
            source = node.inputs[0]
            kind = group_of(node.op_type, layer.path)
            found.setdefault((id(source), node.op_type, kind), []).append(layer)
    for layers in found.values():
        if len(layers) > 1:
            _merge(model.graph, layers)
    return model


def _layer(node: ir.Node, paths: Mapping[bytes, str]) -> _Layer | None:
    """``node`` as the product of a layer, when it is one."""
    if node.op_type not in ("Gemm", "MatMul") or node.inputs[1] is None:
        return None
    weight = _constant(node.inputs[1])
    path = None if weight is None or weight.ndim != 2 else paths.get(digest(weight))
    if weight is None or path is None:
        return None
    if node.op_type == "Gemm":
        bias = _constant(node.inputs[2]) if len(node.inputs) == 3 and node.inputs[2] is not None else None
        given = {name: attribute.value for name, attribute in node.attributes.items()}
        if bias is None or {**_GEMM, **given} != {**_GEMM, "transB": 1}:
            return None
        return _Layer(path, node, node, weight, bias)
    plus = sole_user(node.outputs[0], "Add")
    bias = None if plus is None or plus.inputs[1] is None else _constant(plus.inputs[1])
    if plus is None or bias is None or bias.shape != weight.shape[1:]:
        return None
    return _Layer(path, node, plus, weight, bias)


def _constant(value: ir.Value) -> NDArray[np.float32] | None:
    tensor = value.const_value
    return tensor.numpy() if tensor is not None and tensor.dtype == ir.DataType.FLOAT else None


def _merge(graph: ir.Graph, found: Sequence[_Layer]) -> None:
    """``found``: at least two layers, in the graph's order."""
    first, layers = found[0], sorted(found, key=lambda layer: layer.path)
    widths = [len(layer.bias) for layer in layers]
    name = merged_name([layer.path for layer in layers])
    columns = 0 if first.product.op_type == "Gemm" else 1
    weight = initializer(graph, f"{name}.weight", np.concatenate([layer.weight for layer in layers], columns))
    bias = initializer(graph, f"{name}.bias", np.concatenate([layer.bias for layer in layers]))
    nodes = _wide(first, weight, bias, name)
    wide, shape = nodes[-1].outputs[0], first.last.outputs[0].shape
    assert shape is not None
    wide.shape, wide.dtype = ir.Shape([*shape[:-1], sum(widths)]), ir.DataType.FLOAT
    split = ir.node(
        "Split",
        [wide, constant(graph, widths)],
        {"axis": len(shape) - 1},
        num_outputs=len(layers),
        name=f"{name}.split",
    )
    graph.insert_before(first.product, [*nodes, split])
    old = [layer.last.outputs[0] for layer in layers]
    for before, after in zip(old, split.outputs, strict=True):
        after.name, after.shape, after.type = before.name, before.shape, before.type
    ir.convenience.replace_all_uses_with(old, split.outputs, replace_graph_outputs=True)
    for layer in layers:
        graph.remove(list(dict.fromkeys((layer.last, layer.product))), safe=True)


def _wide(first: _Layer, weight: ir.Value, bias: ir.Value, name: str) -> list[ir.Node]:
    source = first.product.inputs[0]
    if first.product.op_type == "Gemm":
        return [ir.node("Gemm", [source, weight, bias], {"transB": 1}, name=name)]
    product = ir.node("MatMul", [source, weight], name=name)
    return [product, ir.node("Add", [product.outputs[0], bias], name=f"{name}.add")]
