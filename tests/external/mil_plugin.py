"""A pytest plug-in that runs Apple's MIL operator tests (in the coremltools wheel) on our interpreter.

Away from macOS those tests convert a model and compare nothing. With this plug-in the converted package is read and
evaluated by ``microforge_runtimes.mil`` and compared with the expected values that Apple wrote, at the tolerances that
Apple uses on macOS. Every case ends in one of four ways:

    equal      the outputs agree
    wrong      an output differs: a defect of the interpreter
    refused    a BundleError says what the interpreter does not know, counted by operator
    crashed    any other exception: a defect too

Set MIL_RESULTS to the JSON file that the counts are added to.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools.converters.mil.mil.ops.tests.testing_utils as operator_utils
import coremltools.converters.mil.testing_utils as converter_utils
import numpy as np
import pytest

from microforge.errors import BundleError
from microforge_runtimes.mil.interpreter import Interpreter
from microforge_runtimes.mil.reader import read_program

OUTCOMES: Counter[str] = Counter()
REFUSALS: Counter[str] = Counter()
DEFECTS: list[str] = []


def _inputs(values: Mapping[str, Any], interpreter: Interpreter) -> dict[str, Any]:
    return {name: np.asarray(values[name]) for name in interpreter.function.inputs}


def _holds_half(interpreter: Interpreter) -> bool:
    """Whether a case that is run as fp32 has fp16 values all the same: its own constants or inputs are fp16."""
    operations = interpreter.function.operations
    return any(kind.dtype == "fp16" for operation in operations for kind in operation.outputs.values())


def _reason(error: BundleError) -> list[str]:
    """The operators that a refusal names, or its text without paths and numbers."""
    text = str(error).split(": ", 1)[-1]
    missing = re.match(r"the interpreter has no operator (.*?); it has", text)
    return missing[1].split(", ") if missing else [re.sub(r"[\d\[\], ]{2,}|'[^']*'", " … ", text)[:100]]


def _compare(
    mlmodel: Any,
    input_key_values: Mapping[str, Any],
    expected_outputs: Mapping[str, Any],
    dtype: str = "fp32",
    atol: float = 1e-4,
    rtol: float = 1e-5,
    also_compare_shapes: bool = True,
    state: Any = None,
    allow_mismatch_ratio: float = 0.0,
) -> None:
    """What ``compare_backend`` does on macOS, with the interpreter in the place of Core ML."""
    if not mlmodel.is_package or expected_outputs is None:
        OUTCOMES["not an ML program, or no expected value"] += 1
        return
    try:
        interpreter = Interpreter(read_program(Path(mlmodel.package_path)))
        outputs = interpreter.run(_inputs(input_key_values, interpreter))
    except BundleError as error:
        OUTCOMES["refused"] += 1
        REFUSALS.update(_reason(error))
        return
    if dtype == "fp16" or _holds_half(interpreter):
        atol, rtol = max(atol * 100.0, 5e-1), max(rtol * 100.0, 5e-2)
    for name, expected in expected_outputs.items():
        output = outputs[name] if name in outputs else outputs[re.sub(r"\W", "_", name)]
        close = np.isclose(output, expected, atol=atol, rtol=rtol, equal_nan=True)
        if close.size and np.mean(~close) > allow_mismatch_ratio:
            OUTCOMES["wrong"] += 1
            pytest.fail(f"{name}: {np.sum(~close)} of {close.size} values differ")
    OUTCOMES["equal"] += 1


def pytest_configure() -> None:
    converter_utils.compare_backend = _compare
    operator_utils.compare_backend = _compare


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep every n-th case from MIL_OFFSET on, n being MIL_STRIDE: a quick look, or one of n shards."""
    items[:] = items[int(os.environ.get("MIL_OFFSET", "0")) :: int(os.environ.get("MIL_STRIDE", "1"))]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = (yield).get_result()
    if call.when == "call" and report.failed and call.excinfo is not None:
        trace = [str(entry.path) for entry in call.excinfo.traceback]
        if any("microforge_runtimes" in path for path in trace) and "values differ" not in str(
            call.excinfo.value
        ):
            OUTCOMES["crashed"] += 1
        if any("microforge_runtimes" in path or "mil_plugin" in path for path in trace):
            DEFECTS.append(f"{item.nodeid.split('tests/', 1)[-1]}: {str(call.excinfo.value)[:160]}")
        else:
            OUTCOMES["the case itself fails, or expects an error message of Core ML"] += 1


def pytest_sessionfinish() -> None:
    out = os.environ.get("MIL_RESULTS")
    if not out:
        return
    path = Path(out)
    before = (
        json.loads(path.read_text("utf-8"))
        if path.exists()
        else {"outcomes": {}, "refusals": {}, "defects": []}
    )
    result = {
        "outcomes": dict(sorted((Counter(before["outcomes"]) + OUTCOMES).items())),
        "refusals": dict((Counter(before["refusals"]) + REFUSALS).most_common()),
        "defects": sorted({*before["defects"], *DEFECTS}),
    }
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
