"""Runs the ONNX project's node tests (in the onnx wheel) through our graph rewrites: same outputs before and after.

``python tests/external/onnx_nodes.py --out docs/external/onnx_nodes.json``

Every case is a graph that nobody tuned for: it is folded and rewritten as a component of ours would be, and ONNX
Runtime runs the original and the rewritten graph on the case's own inputs. Exit 1 when an output differs or a rewrite
raises anything.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import typer
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from microforge.errors import GraphLintError
from microforge.io.atomic import atomic_bytes
from microforge.io.console import command_app, run
from microforge_export.targets.onnx.lower import fold
from microforge_export.targets.onnx.rewrites import fewer_operators

app = command_app("Run the ONNX node tests through the graph rewrites.")
#: Rewrites may add in another order; relative to the largest output.
TOLERANCES = {"float16": 5e-3, "bfloat16": 4e-2}
TOLERANCE = 1e-5


def outputs_of(model: onnx.ModelProto, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of ``model`` in ONNX Runtime without its own optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [item.name for item in session.get_inputs()]
    values = [numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item for item in inputs]
    arrays = [np.asarray(item) if isinstance(item, np.generic) else item for item in values]
    return list(session.run(None, dict(zip(names, arrays, strict=False))))


def same(before: Any, after: Any) -> bool:
    """Whether two outputs (arrays, lists of them, or other values) agree."""
    if isinstance(before, list):
        return len(before) == len(after) and all(map(same, before, after))
    if not isinstance(before, np.ndarray) or before.dtype.kind not in "fc":
        return bool(np.array_equal(before, after))
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    scale = float(np.abs(before[np.isfinite(before)]).max(initial=1.0))
    tolerance = TOLERANCES.get(before.dtype.name, TOLERANCE)
    return bool(np.allclose(before, after, rtol=tolerance, atol=tolerance * scale, equal_nan=True))


def outcome(case: Any) -> str:
    """How one test case ends."""
    model = case.model
    inputs = case.data_sets[0][0] if case.data_sets else []
    try:
        before = outputs_of(model, inputs)
    except Exception as error:  # the engine's own refusals are no subject of this test
        return f"ONNX Runtime does not run the original ({type(error).__name__})"
    if any(
        node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")
        for node in model.graph.node
    ):
        return "random outputs"
    try:
        rewritten = ir.to_proto(fold(fewer_operators(fold(ir.from_proto(model)))))
    except GraphLintError:
        return "refused"
    except Exception as error:
        return f"crashed: {type(error).__name__}: {str(error)[:120]}"
    try:
        after = outputs_of(rewritten, inputs)
    except Exception as error:
        return f"different: the rewritten graph does not run: {str(error)[:160]}"
    return "equal" if same(before, after) else "different: outputs differ"


@app.command(
    epilog="Example: python tests/external/onnx_nodes.py --out docs/external/onnx_nodes.json --force"
)
def main(
    out: Annotated[Path, typer.Option(help="JSON file with the counts.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> int:
    """Run every node test and count how each ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases divide by zero on purpose
        cases = [case for case in collect_testcases(None) if case.model is not None]
    counts: Counter[str] = Counter()
    defects: dict[str, str] = {}
    for case in cases:
        result = outcome(case)
        kind = result.split(":", 1)[0]
        counts[kind] += 1
        if kind in ("crashed", "different"):
            defects[case.name] = result
    values = {"cases": len(cases), "outcomes": dict(counts.most_common()), "defects": defects}
    atomic_bytes(out, (json.dumps(values, indent=1) + "\n").encode(), force)
    print(json.dumps(values["outcomes"]), file=sys.stderr)
    return 1 if defects else 0


if __name__ == "__main__":
    run(app)
