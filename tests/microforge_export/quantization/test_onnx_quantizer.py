"""INT8 graphs: valid, close, deterministic, and changed only where the recipe says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from microforge.errors import SpecError
from microforge_export.checks.parity import guidance_norm_ratio, state_drift
from microforge_export.components.component import SourceComponent, SourceModel, trace
from microforge_export.quantization.calibration import RecordedSample, torch_runner
from microforge_export.quantization.onnx import OnnxQuantizable, constant_bytes
from microforge_export.quantization.onnx_quantizer import SUPPORTED, per_channel
from microforge_export.quantization.quality import at_fault
from microforge_export.quantization.quality_gate import draft_psnr
from microforge_export.recipes.int8_recipe import Scheme
from microforge_export.targets.onnx.lint import lint
from microforge_export.targets.onnx.shared_weights import SharedWeights, write_graph
from microforge_runtimes import Request


def everywhere(graph: OnnxQuantizable, scheme: Scheme) -> dict[str, Scheme]:
    return {group: scheme for group in graph.groups() if scheme in SUPPORTED[group.split()[0]]}


def test_a_recorded_sample_is_the_librarys_own(
    source_model: SourceModel, recorded_sample: RecordedSample
) -> None:
    expected = source_model.provider.reference(Request("a red circle", "generate"), source_model.native_size)
    np.testing.assert_allclose(recorded_sample.image, expected, atol=2e-5)


def test_a_recorded_sample_has_both_passes_of_every_step_with_and_without_a_state(
    source_model: SourceModel, recorded_sample: RecordedSample
) -> None:
    times = [float(case.inputs["t"][0]) for case in recorded_sample.cases["denoiser"]]
    assert times == pytest.approx(
        np.repeat(source_model.provider.driving(["generate"]).samplers[0].times, 2).tolist()
    )
    assert [float(case.inputs["has_plan"][0]) for case in recorded_sample.cases["denoiser"]] == [0, 0] + [
        1
    ] * 6


def test_groups_cover_every_weighted_node_and_name_its_module(
    quantizables: dict[str, OnnxQuantizable],
) -> None:
    for graph in quantizables.values():
        # A batched product's constant, the order of a scan, is no layer and has no group.
        initial = {item.name for item in graph.model.graph.initializer if len(item.dims) == 2}
        weighted = {node.name for node in graph.model.graph.node if node.op_type in ("Conv", "Gemm")}
        weighted |= {
            n.name for n in graph.model.graph.node if n.op_type == "MatMul" and n.input[1] in initial
        }
        assert weighted <= set(graph.nodes)
    assert {"matmul planner.layers.ffn", "matmul backbone.blocks.ffn", "matmul backbone.shared"} <= set(
        quantizables["denoiser"].groups()
    )
    assert "conv decoder.stages.1" in quantizables["vae_decoder"].groups()
    assert "gather tokens" in quantizables["text_encoder"].groups()


@pytest.mark.parametrize(
    ("key", "scheme", "least_db"),
    [
        ("text_encoder", "weight-only", 35.0),
        ("text_encoder", "dynamic", 25.0),
        ("denoiser", "weight-only", 30.0),
        ("denoiser", "dynamic", 22.0),
        ("vae_decoder", "weight-only", 35.0),
        ("vae_decoder", "static", 25.0),
    ],
)
def test_every_scheme_is_valid_and_close_and_smaller(
    quantizables: dict[str, OnnxQuantizable],
    recorded_sample: RecordedSample,
    key: str,
    scheme: Scheme,
    least_db: float,
) -> None:
    graph = quantizables[key]
    schemes = everywhere(graph, scheme)
    assert schemes
    quantized = graph.quantized(schemes)
    lint(key, quantized)
    assert constant_bytes(quantized) < constant_bytes(graph.quantized({}))
    psnr = draft_psnr(graph, schemes, [recorded_sample])
    assert least_db < psnr < 90, "and it really is quantized"


def test_only_the_named_group_changes(quantizables: dict[str, OnnxQuantizable]) -> None:
    graph = quantizables["vae_decoder"]
    quantized = graph.quantized({"conv decoder.stages.1": "static"})
    counts = Counter(node.op_type for node in quantized.graph)
    count = list(graph.nodes.values()).count("conv decoder.stages.1")
    weights = [v for v in quantized.graph.initializers.values() if v.dtype == ir.DataType.INT8 and v.shape.rank() == 4]  # type: ignore[union-attr]  # fmt: skip
    assert len(weights) == count > 0
    assert counts["Conv"] == len(graph.nodes), "QDQ keeps the convolutions themselves"


def test_two_quantizations_give_the_same_bytes(quantizables: dict[str, OnnxQuantizable]) -> None:
    graph = quantizables["vae_decoder"]
    first, second = (ir.to_proto(graph.quantized(everywhere(graph, "static"))) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_two_sizes_store_their_int8_weights_once(source_model: SourceModel, tmp_path: Path) -> None:
    sizes = [source_model.native_size, source_model.native_size.model_copy(update={"width": 96})]
    decoders = [
        item for item in source_model.provider.components(sizes, ["generate"]) if item.role == "vae_decoder"
    ]
    stored = []
    with SharedWeights(tmp_path / "weights.bin") as weights:
        for item in decoders:
            other = roll_inputs(item)
            graph = OnnxQuantizable.make(item, trace(item), other, tmp_path)
            write_graph(graph.quantized(everywhere(graph, "static")), tmp_path / f"{item.key}.onnx", weights)
            stored.append(sum(extent.length for extent in weights.extents.values()))
    assert stored[1] == stored[0], "the second size adds nothing"


def roll_inputs(component: SourceComponent) -> tuple[dict[str, np.ndarray], ...]:
    generator = np.random.default_rng(0)
    return tuple(
        {spec.name: generator.standard_normal(spec.shape).astype(np.float32) for spec in component.inputs}
        for _ in range(2)
    )


@pytest.mark.parametrize(
    ("schemes", "named"),
    [({"conv nowhere": "static"}, "conv nowhere"), ({"conv decoder": "dynamic"}, "allowed: fp32")],
)
def test_a_recipe_for_another_model_is_refused(
    quantizables: dict[str, OnnxQuantizable], schemes: dict[str, Scheme], named: str
) -> None:
    with pytest.raises(SpecError, match=named):
        quantizables["vae_decoder"].quantized(schemes)


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=4, max_side=5),
                  elements=st.floats(-1e4, 1e4, width=32)),
    st.integers(0, 1),
)  # fmt: skip
def test_per_channel_is_within_half_a_step(weight: np.ndarray, axis: int) -> None:
    values, scale = per_channel(weight, axis)
    shape = [-1 if item == axis else 1 for item in range(weight.ndim)]
    step = scale.reshape(shape)
    assert np.abs(values.astype(int)).max() <= 127
    assert (np.abs(values * step - weight) <= step * 0.5001 + 1e-30).all()


def test_the_guidance_norm_ratio_sees_a_prompt_that_lost_its_effect(
    recorded_sample: RecordedSample, components: tuple[SourceComponent, ...]
) -> None:
    run = torch_runner(components)
    assert guidance_norm_ratio(
        recorded_sample.pairs, "velocity", lambda inputs: run("denoiser", inputs)
    ) == pytest.approx(1.0)
    deaf = {id(pair.conditional.inputs): pair.empty.inputs for pair in recorded_sample.pairs}
    lost = guidance_norm_ratio(
        recorded_sample.pairs, "velocity", lambda inputs: run("denoiser", deaf.get(id(inputs), inputs))
    )
    assert lost < 0.01


def test_state_drift_is_the_worst_relative_error_of_any_state() -> None:
    state = np.ones((1, 4, 8), np.float32)
    assert state_drift({"a": state, "b": state}, {"a": state * 1.5, "b": state * 1.1}) == pytest.approx(0.5)
    assert state_drift({}, {}) is None, "a model without a state"


@given(st.integers(1, 20), st.data())
def test_bisection_finds_the_bad_group(count: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, count - 1))
    groups = [f"conv {index}" for index in range(count)]
    assert at_fault(groups, lambda part: 10.0 if f"conv {bad}" in part else 40.0) == f"conv {bad}"


def test_dynamic_leaves_no_matrix_in_fp32(quantizables: dict[str, OnnxQuantizable]) -> None:
    graph = quantizables["denoiser"]
    quantized = graph.quantized(everywhere(graph, "dynamic"))
    large = [v for v in quantized.graph.initializers.values() if v.dtype == ir.DataType.FLOAT and v.name.endswith("_Transposed")]  # type: ignore[union-attr]  # fmt: skip
    assert "Gemm" in {node.op_type for node in graph.model.graph.node} and not large
