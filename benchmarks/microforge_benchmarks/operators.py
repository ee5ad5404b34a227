"""Where the time goes inside a network: ONNX Runtime's own profiler, summed per kind of operator."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microforge.bench_rows import Operator
from microforge.bundle import DRAWING, Component
from microforge.bundle_files import load_bundle
from microforge.errors import missing_extra


def profile_onnx(
    path: str, size: tuple[int, int] | None, threads: int | None, runs: int
) -> tuple[Operator, ...]:
    """Seconds of every kind of operator over one evaluation of each component, slowest first.

    The inputs are constants: no operator of these graphs takes longer for other values.

    Raises:
        BundleError: for a bundle without ONNX files. MissingExtraError: without onnxruntime.
    """
    bundle = load_bundle(path)
    pixels = bundle.size(size).size
    found: list[Operator] = []
    for role in DRAWING:
        key, component = bundle.component(role, None if role == "text_encoder" else pixels)
        events = _events(bundle.file("onnx", key), component, threads, runs)
        found += summarize(key, events)
    return tuple(sorted(found, key=lambda item: -item.seconds))


def _events(path: Path, component: Component, threads: int | None, runs: int) -> list[dict[str, Any]]:
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnxruntime", "onnx") from None
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = {spec.name: np.full(spec.shape, 0.5).astype(spec.dtype) for spec in component.inputs}
        for _ in range(runs + 1):  # the first one is not counted
            session.run(None, inputs)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return events


def summarize(component: str, events: Iterable[Mapping[str, Any]]) -> list[Operator]:
    """Kernel events of a profile (durations in microseconds) as one entry per kind of operator.

    Every node's first evaluation is left out: it also pays for memory that later ones find.
    """
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            durations[str(event["args"]["op_name"]), name].append(float(event["dur"]))
    seconds: dict[str, float] = defaultdict(float)
    nodes: dict[str, int] = defaultdict(int)
    for (kind, _), values in durations.items():
        seconds[kind] += statistics.median(values[1:] or values) / 1e6
        nodes[kind] += 1
    return [
        Operator(component=component, operator=kind, nodes=nodes[kind], seconds=seconds[kind])
        for kind in seconds
    ]
