"""The lint refuses graphs that phones cannot run, and names what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from microforge.errors import GraphLintError
from microforge_export.targets.onnx.lint import lint, operator_counts

F32 = TensorProto.FLOAT


def graph(
    nodes: list[onnx.NodeProto], shape: list[int | str], kind: int = F32,
    initializers: list[onnx.TensorProto] | None = None, domains: tuple[str, ...] = (),
) -> ir.Model:  # fmt: skip
    """A graph from x to y, both of ``shape``."""
    x, y = (helper.make_tensor_value_info(name, kind, shape) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], initializers or [])
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(name, 1) for name in domains)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets))


def loop() -> ir.Model:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["more"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", F32, [2]),
        ],
        [
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", F32, [2]),
        ],
    )
    count = numpy_helper.from_array(np.array(3), "count")
    return graph(
        [helper.make_node("Loop", ["count", "", "x"], ["y"], "the_loop", body=body)],
        [2],
        initializers=[count],
    )


def test_a_plain_graph_passes() -> None:
    model = graph([helper.make_node("Neg", ["x"], ["y"])], [1, 4])
    lint("decoder", model)
    assert operator_counts([model, model]) == {"Neg": 2}


def test_a_loop_is_refused_by_component_and_node() -> None:
    with pytest.raises(GraphLintError, match=r"decoder: node the_loop \(Loop\) is control flow"):
        lint("decoder", loop())


def test_nonzero_is_refused() -> None:
    model = graph(
        [helper.make_node("NonZero", ["x"], ["z"], "where"), helper.make_node("Neg", ["x"], ["y"])], [4]
    )
    with pytest.raises(GraphLintError, match=r"where \(NonZero\)"):
        lint("decoder", model)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        (["batch", 4], F32, "dynamic shape"),
        ([1, 4], TensorProto.DOUBLE, "type DOUBLE"),
        ([1, 1, 1, 1, 1, 4], F32, "6 axes, at most 5"),
    ],
)  # fmt: skip
def test_dynamic_sides_double_precision_and_six_axes_are_refused(
    shape: list[int | str], kind: int, message: str
) -> None:
    with pytest.raises(GraphLintError, match=message):
        lint("decoder", graph([helper.make_node("Neg", ["x"], ["y"])], shape, kind))


def test_an_operator_of_another_domain_is_refused() -> None:
    node = helper.make_node("FusedGelu", ["x"], ["y"], "fused", domain="com.example")
    with pytest.raises(GraphLintError, match=r"belongs to com\.example"):
        lint("decoder", graph([node], [4], domains=("com.example",)))


@pytest.mark.parametrize("value", [-1e9, np.inf, np.nan])
def test_a_constant_beyond_half_precision_is_refused(value: float) -> None:
    mask = numpy_helper.from_array(np.array([0.0, value, 0.0, 0.0], np.float32), "mask")
    model = graph([helper.make_node("Add", ["x", "mask"], ["y"])], [4], initializers=[mask])
    with pytest.raises(GraphLintError, match="constant 'mask' reaches"):
        lint("denoiser", model)


def test_the_miniatures_graphs_pass_as_they_lie_on_disk(two_sizes: Path) -> None:
    for path in (two_sizes / "onnx").glob("*.onnx"):
        inferred = onnx.shape_inference.infer_shapes(onnx.load(str(path)), strict_mode=True)
        lint(path.stem, ir.from_proto(inferred))
