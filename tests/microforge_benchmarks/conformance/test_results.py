"""The table of runtimes: a replayed bundle, reports of other runtimes, and what fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from microforge.bundle.files import file_entry, load_bundle, write_manifest
from microforge.bundle.manifest import Golden, Size, Trajectory
from microforge.bundle.targets import ImageParity
from microforge.errors import BundleError, DataError
from microforge.io.console import exit_code
from microforge_benchmarks.conformance.python_runtime import python_report
from microforge_benchmarks.conformance.results import ConformanceResults, read_report, results_page
from microforge_benchmarks.conformance.table_cli import app
from microforge_runtimes.generator import Generator

PROMPT = "a red circle"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def replayable(bundle: Path, tmp_path: Path) -> Path:
    """The miniature bundle with one golden trajectory of its own."""
    return _with_trajectory(bundle, tmp_path / "replayable.mfb", shift=0.0)


def _with_trajectory(bundle: Path, folder: Path, shift: float) -> Path:
    shutil.copytree(bundle, folder)
    with Generator(folder) as generator:
        result, noise = generator.generate(PROMPT, seed=5), generator.noise(5)
        ids = generator.tokenizer("prompt").encode(PROMPT, "generate").ids
    (folder / "golden").mkdir(exist_ok=True)
    image = (result.float_image + np.float32(shift)).astype(np.float32)
    save_file(
        {"noise": noise, "image": image, "tokens.prompt.ids": ids[None]}, folder / "golden/run.safetensors"
    )
    manifest = load_bundle(folder).manifest
    trajectory = Trajectory(
        task="generate", size=Size(height=result.height, width=result.width), prompt=PROMPT, seed=5,
        file=file_entry(folder, "golden/run.safetensors"),
    )  # fmt: skip
    onnx = manifest.targets["onnx"].model_copy(update={"image": ImageParity(max_abs_255=0.0, threshold=2.0)})
    changes: dict[str, Any] = {"golden": Golden(trajectories=(trajectory,)), "targets": {"onnx": onnx}}
    changed = manifest.model_copy(update=changes)
    write_manifest(
        folder, changed.model_copy(update={"bytes": sum(entry.bytes for entry in changed.files())})
    )
    return folder


def _report(**changes: Any) -> dict[str, Any]:
    row = {
        "bundle": "0" * 12, "model": "tiny", "precision": "int8", "task": "edit", "size": "256x256", "worst_pixel": 61.6,
        "psnr_db": 40.25, "limit": "PSNR 30 dB", "passed": True,
    }  # fmt: skip
    return {"runtime": "kotlin", "engine": "ONNX Runtime 1.29.0", "trajectories": [row | changes]}


def test_the_python_runtime_repeats_its_own_trajectory_exactly(replayable: Path) -> None:
    (item,) = python_report([replayable]).trajectories
    assert item.passed and item.worst_pixel == 0.0 and item.psnr_db is None
    assert (item.task, item.size, item.precision, item.limit) == ("generate", "64x96", "fp32", "pixel 2")


def test_an_image_beyond_the_limit_fails(bundle: Path, tmp_path: Path) -> None:
    (item,) = python_report([_with_trajectory(bundle, tmp_path / "other.mfb", shift=0.02)]).trajectories
    assert not item.passed and item.worst_pixel == pytest.approx(5.1, abs=0.01)


def test_a_bundle_without_trajectories_is_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match="no golden trajectories"):
        python_report([bundle])


def test_the_command_writes_the_table_of_all_runtimes(replayable: Path, tmp_path: Path) -> None:
    report, out = tmp_path / "kotlin.json", tmp_path / "out"
    report.write_text(json.dumps(_report()))
    arguments = [str(replayable), "--report", str(report), "--out", str(out)]
    assert exit_code(app, arguments) == 0
    page = (out / "RESULTS.md").read_text()
    assert (
        "| kotlin | ONNX Runtime 1.29.0 | edit | 256x256 | int8 | 61.6000 | 40.2 | PSNR 30 dB | pass |"
        in page
    )
    assert "| python | ONNX Runtime" in page and "| 0.0000 | equal | pixel 2 | pass |" in page
    report.write_text(json.dumps(_report(passed=False)))
    assert exit_code(app, arguments) == 1
    assert "| PSNR 30 dB | FAIL |" in (out / "RESULTS.md").read_text()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", json.dumps(_report(surprise=1)), json.dumps(_report(task="No"))]
)
def test_what_is_no_report_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"report\.json: .*CONFORMANCE\.md") as caught:
        read_report(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_report(tmp_path / "none.json")


def test_the_committed_page_is_that_of_the_committed_results_and_passes() -> None:
    folder = ROOT / "conformance"
    results = ConformanceResults.model_validate_json((folder / "results.json").read_bytes())
    assert (folder / "RESULTS.md").read_text("utf-8") == results_page(results)
    assert results.passed
    assert {item.task for report in results.runtimes for item in report.trajectories} >= {
        "generate",
        "edit",
        "vary",
    }
