"""How close an ONNX graph comes to the range of half precision, on inputs that really occur.

An accelerator may compute in half precision whatever the file says, and a value beyond 65504 becomes infinite
there. The graph is run in fp32 with every intermediate result as an output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from microforge_export.checks.golden import Array
from microforge_export.targets.base import HALF_MAX

_ERRORS_ONLY = 3


@dataclass(frozen=True, kw_only=True)
class HalfRange:
    """The largest absolute value in a graph, and whether it leaves half precision less than a factor of two."""

    largest: float
    tensor: str
    risk: bool


def half_range(path: Path, inputs: Sequence[Mapping[str, Array]]) -> HalfRange:
    """Run the graph in ``path`` on ``inputs``; results that are not floats are not looked at."""
    model = onnx.load(path)
    known = {item.name for item in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name and name not in known]
    # Without a type: ONNX Runtime infers it.
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    largest, tensor = 0.0, ""
    for values in inputs:
        results: list[Any] = session.run(None, dict(values))
        for output, value in zip(session.get_outputs(), results, strict=True):
            if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.size:
                size = float(np.abs(value).max())
                if not size <= largest:
                    largest, tensor = size, output.name
    return HalfRange(largest=largest, tensor=tensor, risk=not largest <= HALF_MAX / 2)
