"""Merges layers that read the same tensor into one wide product: ``x W1``, ``x W2`` -> ``x [W1 W2]`` and a split.

Examples are the queries, keys and values of an attention, the two halves of a gate, and the keys and values that
every block computes from the text. A narrow product of few tokens takes longer to start than to compute, and in INT8
each would quantize its input again. Results are unchanged, because every column has its own sum and its own scale.

Only layers of the same operator group are merged, so that a recipe has the same meaning with and without merging.
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

#: Default attributes of Gemm.
_GEMM_DEFAULTS = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


@dataclass(frozen=True)
class _Layer:
    """``y = x W + b`` in the exporter's form: one Gemm with W (N, K), or MatMul with W (K, N) and Add.

    Attributes:
        path: name of the parameter W.
        product: the Gemm or MatMul node.
        last: the node whose output is y.
    """

    path: str
    product: ir.Node
    last: ir.Node
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def merge_layers(model: ir.Model, component: SourceComponent) -> ir.Model:
    """Merge layers with the same input and operator group, in place; returns ``model``.

    Columns are ordered by the names of their parameters, which do not depend on the image size, so graphs of several
    sizes still share weights.
    """
    paths = parameter_names(component)
    by_input: dict[tuple[int, str, str], list[_Layer]] = {}
    for node in model.graph:
        layer = _layer(node, paths)
        if layer is not None:
            group = group_of(node.op_type, layer.path)
            by_input.setdefault((id(node.inputs[0]), node.op_type, group), []).append(layer)
    for layers in by_input.values():
        if len(layers) > 1:
            _merge(model.graph, layers)
    return model


def _layer(node: ir.Node, paths: Mapping[bytes, str]) -> _Layer | None:
    """The layer whose product is ``node``; None if there is none."""
    if node.op_type not in ("Gemm", "MatMul") or node.inputs[1] is None:
        return None
    weight = _constant(node.inputs[1])
    path = None if weight is None or weight.ndim != 2 else paths.get(digest(weight))
    if weight is None or path is None:
        return None
    if node.op_type == "Gemm":
        bias = _constant(node.inputs[2]) if len(node.inputs) == 3 and node.inputs[2] is not None else None
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        if bias is None or {**_GEMM_DEFAULTS, **attributes} != {**_GEMM_DEFAULTS, "transB": 1}:
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


def _merge(graph: ir.Graph, in_order: Sequence[_Layer]) -> None:
    """Merge ``in_order``: at least two layers, in the order of the graph."""
    first, layers = in_order[0], sorted(in_order, key=lambda layer: layer.path)
    widths = [len(layer.bias) for layer in layers]
    name = merged_name([layer.path for layer in layers])
    columns = 0 if first.product.op_type == "Gemm" else 1
    weight = initializer(graph, f"{name}.weight", np.concatenate([layer.weight for layer in layers], columns))
    bias = initializer(graph, f"{name}.bias", np.concatenate([layer.bias for layer in layers]))
    nodes = _wide_product(first, weight, bias, name)
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
    outputs = [layer.last.outputs[0] for layer in layers]
    for before, after in zip(outputs, split.outputs, strict=True):
        after.name, after.shape, after.type = before.name, before.shape, before.type
    ir.convenience.replace_all_uses_with(outputs, split.outputs, replace_graph_outputs=True)
    for layer in layers:
        graph.remove(list(dict.fromkeys((layer.last, layer.product))), safe=True)


def _wide_product(first: _Layer, weight: ir.Value, bias: ir.Value, name: str) -> list[ir.Node]:
    source = first.product.inputs[0]
    if first.product.op_type == "Gemm":
        return [ir.node("Gemm", [source, weight, bias], {"transB": 1}, name=name)]
    product = ir.node("MatMul", [source, weight], name=name)
    return [product, ir.node("Add", [product.outputs[0], bias], name=f"{name}.add")]
