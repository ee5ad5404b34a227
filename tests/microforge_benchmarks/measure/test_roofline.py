"""Operations and bytes of small graphs against values computed by hand, and the bounds that follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from microforge.bundle.devices import DEVICES
from microforge.bundle.files import load_bundle
from microforge_benchmarks.measure.graph_cost import GraphCost, graph_cost
from microforge_benchmarks.measure.operators import by_kind, kernels
from microforge_benchmarks.measure.roofline import MachineRates, bound, device_rates, image_cost


def _model(node: NodeProto, x: tuple[int, ...], y: tuple[int, ...], w: tuple[int, ...]) -> ModelProto:
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [node], "toy", [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info("y", kind, y)], [numpy_helper.from_array(np.ones(w, np.float32), "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_a_product_costs_two_operations_for_each_multiply_add() -> None:
    cost = graph_cost(_model(helper.make_node("MatMul", ["x", "w"], ["y"]), (5, 7), (5, 3), (7, 3)))
    assert cost == GraphCost(2 * 5 * 7 * 3, 4 * 21, 4 * (35 + 21 + 15))


@pytest.mark.parametrize(("group", "inner"), [(1, 4 * 9), (4, 9)])
def test_a_convolution_counts_its_own_group_only(group: int, inner: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=group, pads=[1, 1, 1, 1])
    cost = graph_cost(_model(node, (1, 4, 6, 6), (1, 8, 6, 6), (8, 4 // group, 3, 3)))
    assert cost.products == 2 * 8 * 36 * inner


def test_a_node_that_only_renames_moves_nothing() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (9,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (9,))],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    assert graph_cost(model) == GraphCost(0, 0, 0)


def test_the_longer_of_compute_and_memory_is_the_bound() -> None:
    limits = bound(GraphCost(products=1000, weights=0, moved=400), MachineRates(100.0, 1000.0, 10.0, "test"))
    assert (limits.fp32_s, limits.fp32_bound_by) == (40.0, "memory")
    assert (limits.int8_s, limits.int8_bound_by) == (10.0, "memory")
    assert (
        bound(GraphCost(5000, 0, 400), MachineRates(100.0, 1000.0, 10.0, "test")).fp32_bound_by == "compute"
    )


def test_an_image_is_bounded_on_every_profile(bundle: Path) -> None:
    cost = image_cost(load_bundle(bundle), (64, 96))
    assert cost.moved > 0
    bounds = [bound(cost, device_rates(DEVICES[name])).fp32_s for name in sorted(DEVICES)]
    assert bounds == sorted(bounds, reverse=True) and bounds[-1] > 0


def test_the_first_evaluation_is_left_out_of_a_profile() -> None:
    def event(name: str, microseconds: int) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": "Add"}}

    events = [
        event("a", 900),
        event("b", 800),
        event("a", 10),
        event("b", 20),
        event("a", 30),
        event("b", 20),
    ]
    (entry,) = by_kind("denoiser", kernels([*events, {"cat": "Session", "name": "model_run", "dur": 5}]))
    assert (entry.nodes, entry.operator) == (2, "Add")
    assert entry.seconds == pytest.approx(40e-6)
