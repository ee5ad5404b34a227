"""Does it fit: the arithmetic of both modes, and the command's answer."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from microforge import onnx_shapes
from microforge.bundle.devices import DEVICES, MIB, DeviceProfile
from microforge.bundle.files import load_bundle
from microforge.errors import BundleError, SpecError
from microforge.io.console import exit_code
from microforge_export.cli import app
from microforge_export.memory.fit import OVERHEADS, StageBudget, fit, peaks, predict
from microforge_export.memory.liveness import graph_memory


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature bundle of the runtime's own tests: no export is needed for arithmetic."""
    source = Path(__file__).parents[2] / "microforge_runtimes" / "conftest.py"
    spec = importlib.util.spec_from_file_location("runtime_fixtures", source)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder: Path = module.build_bundle(tmp_path_factory.mktemp("bundles") / "mini.mfb")
    return folder


def _device(ram: int) -> DeviceProfile:
    return DEVICES["phone-3gb"].model_copy(update={"name": "test", "ram_bytes": ram, "app_share": 1.0})


def test_peaks_add_up_by_hand() -> None:
    stages = (
        StageBudget("text_encoder", "t", weights=10, activations=1, loading=10),
        StageBudget("denoiser", "d", weights=20, activations=5, loading=20),
        StageBudget("vae_decoder", "v", weights=30, activations=7, loading=60),
    )
    found = peaks(stages, process=100)
    assert found["staged"] == {"text_encoder": 111, "denoiser": 125, "vae_decoder": 160}
    assert found["resident"] == {"text_encoder": 111, "denoiser": 136, "vae_decoder": 196}


@pytest.mark.parametrize("target", ["onnx", "executorch"])
def test_every_stage_of_a_bundle_has_weights_and_activations(bundle: Path, target: str) -> None:
    stages = predict(load_bundle(bundle), target)
    assert [stage.role for stage in stages] == ["text_encoder", "denoiser", "vae_decoder"]
    assert all(stage.weights > 0 and stage.activations > 0 for stage in stages)
    assert all(stage.peak >= stage.held for stage in stages)


def test_an_engine_without_a_plan_is_refused(small: Path) -> None:
    opened = load_bundle(small)
    targets = {"coreml": opened.target("onnx"), "executorch": opened.target("onnx")}
    other = replace(opened, manifest=opened.manifest.model_copy(update={"targets": targets}))
    with pytest.raises(BundleError, match="allowed: onnx, executorch"):
        predict(other, "coreml")
    with pytest.raises(BundleError, match="build the bundle again"):
        predict(other, "executorch")


def test_counted_onnx_weights_are_those_in_the_files(bundle: Path) -> None:
    opened = load_bundle(bundle)
    stored = sum(entry.bytes for entry in opened.target("onnx").shared_files)
    counts = [
        graph_memory(onnx_shapes.read_graph(opened.file("onnx", key))) for key in opened.target("onnx").files
    ]
    # scalars and shapes lie in the graphs, and what two graphs share is stored once
    assert sum(item.weights + item.gathered for item in counts) == pytest.approx(stored, rel=0.2)


def test_auto_prefers_resident_then_staged_then_refuses(small: Path) -> None:
    opened = load_bundle(small)
    found = fit(opened, DEVICES["phone-4gb"], "onnx")
    assert found.mode == "resident"
    staged, resident = (max(found.peaks[mode].values()) for mode in ("staged", "resident"))
    assert staged < resident
    between = fit(opened, _device(staged), "onnx")
    assert between.mode == "staged" and "resident mode would need" in between.reason
    none = fit(opened, _device(staged - 1), "onnx")
    assert none.mode is None and not none.fits and "more than" in none.reason
    assert not fit(opened, _device(staged), "onnx", mode="resident").fits


def test_an_unknown_mode_is_refused(small: Path) -> None:
    with pytest.raises(SpecError, match="auto, resident, staged"):
        fit(load_bundle(small), DEVICES["phone-3gb"], "onnx", mode="lazy")


def test_the_command_exits_with_1_for_a_device_that_is_too_small(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = tmp_path / "watch.toml"
    watch.write_text(
        f'name = "watch"\nram_bytes = {OVERHEADS["onnx"].process}\napp_share = 0.5\ncores = 1\n'
        "bandwidth_gb_s = 1\nfp32_gflop_s = 1\nint8_gop_s = 1\n"
    )
    assert exit_code(app, ["fit", str(small), "--device", str(watch), "--json"]) == 1
    captured = capsys.readouterr()
    answer = json.loads(captured.out.splitlines()[-1])
    assert answer["fits"] is False and answer["mode"] is None
    assert captured.err.count("\n") == 1 and "does not fit" in captured.err
    assert exit_code(app, ["fit", str(small), "--device", "phone-2gb", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["budget"] >= max(answer["peaks"]["resident"].values()) > 10 * MIB
