"""A fixed number of coverage-guided inputs for all readers; ``make fuzz`` runs a hundred thousand for each."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Inputs of the fixed run, a few seconds.
RUNS = 2000


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed (extra fuzz; Linux on x86-64 only)",
)
def test_readers_withstand_a_fixed_number_of_coverage_guided_inputs(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.fuzz", "--together", "--runs", str(RUNS), "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=300)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["failures"] == 0, done.stderr
    assert result["inputs"] >= RUNS
