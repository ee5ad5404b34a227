"""The script that compares predicted with measured memory, and the results that are checked in."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from microforge.io.console import exit_code

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    """benchmarks/calibrate_memory.py as a module: it lies beside the packages, in none of them."""
    spec = importlib.util.spec_from_file_location(
        "calibrate_memory", ROOT / "benchmarks" / "calibrate_memory.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibrate_memory"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_script_compares_both_ways_to_load(script: Any, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "memory.json"
    assert exit_code(script.app, [str(bundle), "--within", "0.5", "--out", str(out)]) == 0
    comparisons = json.loads(out.read_text("utf-8"))
    assert [item["loading"] for item in comparisons] == ["resident", "staged"]
    assert exit_code(script.app, [str(bundle), "--out", str(out)]) == 2  # nothing is replaced without --force


def test_checked_in_predictions_lie_within_ten_percent_and_the_page_quotes_them() -> None:
    comparisons = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text("utf-8"))
    assert max(abs(item["ratio"] - 1) for item in comparisons) <= 0.1
    page = (ROOT / "docs" / "devices.md").read_text("utf-8")
    for item in comparisons:
        assert f"| {item['predicted'] / 1e6:.1f} | {item['measured'] / 1e6:.1f} |" in page
