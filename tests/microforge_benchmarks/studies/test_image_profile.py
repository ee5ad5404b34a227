"""The profile of an image adds up to the image, and refuses engines without a profiler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from microforge.bundle.files import load_bundle
from microforge.bundle.measurements import Operator
from microforge.errors import SpecError
from microforge_benchmarks.measure import processor_rates as processor_rates_module
from microforge_benchmarks.measure.processor_rates import ProcessorRates, processor_name, processor_rates
from microforge_benchmarks.studies.image_profile import (
    ComponentProfile,
    ImageProfile,
    bound,
    profile_bundle,
    summarize,
    weight_bytes,
)
from microforge_benchmarks.studies.image_profile_view import markdown, profile_rows


@pytest.fixture(autouse=True)
def _small_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates from small products and small buffers: these tests are not about the machine."""
    monkeypatch.setattr(processor_rates_module, "LARGE", (32, 32, 32))
    monkeypatch.setattr(processor_rates_module, "_EVICTION_BYTES", 1 << 20)


def _operator(component: str, kind: str, nodes: int, seconds: float) -> Operator:
    return Operator(component=component, operator=kind, nodes=nodes, seconds=seconds)


def _profile(target: str = "onnx") -> ImageProfile:
    components = (
        ComponentProfile(
            component="text", evaluations=1, seconds=0.010,
            operators=(_operator("text", "MatMul", 2, 0.008), _operator("text", "Reshape", 2, 0.002)),
        ),
        ComponentProfile(
            component="denoiser", evaluations=4, seconds=0.020,
            operators=(_operator("denoiser", "MatMul", 3, 0.018), _operator("denoiser", "Add", 1, 0.002)),
        ),
    )  # fmt: skip
    return summarize(components, 0.1, target, "int8", "64x96", 1, 5)


def test_time_of_the_profiler_is_subtracted_from_every_node() -> None:
    profile = _profile()
    assert profile.profiler_s == pytest.approx(0.001)
    kinds = {item.operator: item for item in profile.kinds}
    assert kinds["MatMul"].nodes == 2 + 4 * 3
    assert kinds["MatMul"].seconds == pytest.approx(0.006 + 4 * 0.015)
    assert kinds["Reshape"].seconds == 0.0
    assert _profile("executorch").profiler_s == 0.0  # its trace does not slow kernels down


def test_parts_add_up_to_the_image() -> None:
    profile = _profile()
    parts = sum(item.seconds for item in profile.kinds) + profile.between_s + profile.outside_s
    assert parts == pytest.approx(profile.image_s)
    assert profile.outside_s == pytest.approx(0.1 - 0.090)
    rows = profile_rows(profile, 1)
    assert [row[0] for row in rows] == [
        "MatMul", "2 other kinds", "between operators", "outside the engine", "image",
    ]  # fmt: skip
    assert sum(float(row[2]) for row in rows[:-1]) == pytest.approx(float(rows[-1][2]), abs=0.05)


def test_every_evaluation_reads_the_weights_of_its_network(bundle: Path) -> None:
    opened = load_bundle(bundle)
    keys = {opened.component(stage.role, opened.size(None).size)[0]: 1 for stage in opened.manifest.stages()}
    once = weight_bytes(opened, keys)
    assert weight_bytes(opened, dict.fromkeys(keys, 3)) == 3 * once > 0
    rates = ProcessorRates(
        processor="test", threads=1, read_bytes=once, operations_s={"fp32": 1e9, "int8": 4e9},
        layer_operations_s={"fp32": 1e9, "int8": 4e9}, bytes_s={"warm": 1e6, "cold": 1e5},
    )  # fmt: skip
    components = tuple(
        ComponentProfile(component=key, evaluations=2, seconds=0.1, operators=()) for key in keys
    )
    assert bound(opened, None, components, rates)["weights"] == pytest.approx(2 * once / 1e6)


def test_bundle_is_profiled_and_reported(bundle: Path) -> None:
    (profile,) = profile_bundle(load_bundle(bundle), ("onnx",), None, [1], 2, lambda _: None)
    steps = len(load_bundle(bundle).manifest.samplers[0].rows)
    evaluations = [item.evaluations for item in profile.components]
    assert min(evaluations) == 1 and max(evaluations) % steps == 0
    assert profile.image_s > 0 and profile.bound_s is not None and profile.rates is not None
    text = markdown([profile], 3)
    assert "Bound:" in text and profile.rates.processor in text
    assert ImageProfile.model_validate(json.loads(profile.model_dump_json())) == profile


def test_engine_without_a_profiler_is_refused(bundle: Path) -> None:
    with pytest.raises(SpecError, match="engines with a profiler: onnx, executorch"):
        profile_bundle(load_bundle(bundle), ("coreml",), None, [1], 2, lambda _: None)


def test_rates_have_both_shapes_and_both_states_of_the_caches() -> None:
    rates = processor_rates(1 << 20, 1)
    assert {"fp32", "int8"} <= set(rates.operations_s) == set(rates.layer_operations_s)
    assert set(rates.bytes_s) == {"warm", "cold"} and all(value > 0 for value in rates.bytes_s.values())
    assert rates.processor == processor_name() != ""
