"""Peaks of toy graphs whose liveness can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from microforge.errors import GraphLintError
from microforge_export.memory import liveness
from microforge_export.memory.liveness import graph_memory, peak_activations


def _model(
    nodes: list[NodeProto], shape: tuple[int | str, ...] = (10,), weights: tuple[str, ...] = ()
) -> ModelProto:
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "toy", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        [numpy_helper.from_array(np.ones(10, np.float32), name) for name in weights],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def _node(kind: str, inputs: str, output: str) -> NodeProto:
    return helper.make_node(kind, inputs.split(), [output])


def test_a_chain_holds_its_input_and_two_neighbours() -> None:
    chain = [_node("Exp", "x", "a"), _node("Exp", "a", "b"), _node("Exp", "b", "c"), _node("Exp", "c", "y")]
    assert peak_activations(_model(chain)) == 40 + 2 * 40


def test_a_skip_connection_lives_until_it_is_read() -> None:
    skip = [_node("Exp", "x", "a"), _node("Exp", "a", "b"), _node("Exp", "b", "c"), _node("Add", "a c", "y")]
    assert peak_activations(_model(skip)) == 40 + 3 * 40


def test_a_tensor_that_nobody_reads_is_freed_at_once() -> None:
    dead = [_node("Exp", "x", "unused"), _node("Exp", "x", "a"), _node("Exp", "a", "y")]
    assert peak_activations(_model(dead)) == 40 + 2 * 40


def test_a_renamed_tensor_costs_nothing_and_keeps_its_owner_alive() -> None:
    renamed = [
        _node("Exp", "x", "a"),
        _node("Identity", "a", "same"),
        _node("Exp", "x", "b"),
        _node("Add", "same b", "y"),
    ]
    assert peak_activations(_model(renamed)) == 40 + 3 * 40


def test_floats_between_a_fused_operator_and_its_qdq_are_never_made() -> None:
    nodes = [
        _node("QuantizeLinear", "x s", "q"), _node("DequantizeLinear", "q s", "d"), _node("MatMul", "d d", "m"),
        _node("QuantizeLinear", "m s", "n"), _node("DequantizeLinear", "n s", "y"),
    ]  # fmt: skip
    model = _model(nodes, (10, 10))
    model.graph.initializer.append(numpy_helper.from_array(np.array(1.0, np.float32), "s"))
    assert peak_activations(model) == 400 + (100 + 400)  # x, then n in integers and the result in floats
    nodes[2] = _node("Add", "d d", "m")  # not fused: both floats exist
    unfused = _model(nodes, (10, 10))
    unfused.graph.initializer.append(numpy_helper.from_array(np.array(1.0, np.float32), "s"))
    assert peak_activations(unfused) == 400 + (400 + 400)


def test_weights_are_counted_apart_from_activations() -> None:
    model = _model([_node("Add", "x w", "y")], weights=("w",))
    assert graph_memory(model).weights == 40
    assert peak_activations(model) == 80


def test_a_dynamic_shape_is_refused() -> None:
    with pytest.raises(GraphLintError, match="static"):
        peak_activations(_model([_node("Exp", "x", "y")], ("N",)))


def test_a_table_that_is_only_looked_up_is_no_weight_in_memory() -> None:
    kind = TensorProto.FLOAT
    values = [numpy_helper.from_array(np.ones((100, 3), np.float32), name) for name in ("table", "filter")]
    values.append(numpy_helper.from_array(np.ones((2, 3, 1), np.float32), "taps"))
    graph = helper.make_graph(
        [_node("Gather", "table i", "rows"), _node("Gather", "filter i", "a"), _node("Add", "filter rows", "b"),
         _node("Conv", "x taps", "y")],
        "toy",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ()), helper.make_tensor_value_info("x", kind, (1, 3, 4))],
        [helper.make_tensor_value_info("y", kind, (1, 2, 4)), helper.make_tensor_value_info("b", kind, (100, 3))],
        values,
    )  # fmt: skip
    memory = graph_memory(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    assert (memory.gathered, memory.weights, memory.convolution_weights, memory.nodes) == (
        1200,
        1200 + 24,
        24,
        4,
    )


def test_nodes_that_are_fused_into_a_dynamic_matrix_are_not_counted() -> None:
    nodes = [
        _node("DynamicQuantizeLinear", "x", "q"), _node("MatMulInteger", "q w", "i"), _node("Cast", "i", "f"),
        _node("Mul", "s t", "st"), _node("Mul", "f st", "y"), _node("Relu", "y", "z"),
    ]  # fmt: skip
    assert liveness._kernels(nodes) == 2, "one matrix, one Relu"
    assert liveness._kernels(nodes[5:]) == 1
