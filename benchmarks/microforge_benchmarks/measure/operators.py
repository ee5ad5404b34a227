"""Time of each kind of operator in a network, from the engine's profiler."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microforge.bundle.files import load_bundle
from microforge.bundle.manifest import Component
from microforge.bundle.measurements import Operator
from microforge.errors import missing_extra
from microforge_benchmarks.measure.node import Node, Profiler


def profile(
    path: str, target: str, size: tuple[int, int] | None, threads: int | None, runs: int
) -> tuple[Operator, ...]:
    """Seconds of every kind of operator in one evaluation of each component, slowest first.

    Inputs are constant, because the time of these operators does not depend on values.

    Raises:
        BundleError: for a bundle without files of ``target``. MissingExtraError: without its engine.
    """
    bundle = load_bundle(path)
    pixels, nodes = bundle.size(size).size, _profiler(target)
    operators: list[Operator] = []
    for stage in bundle.manifest.stages():
        key, component = bundle.component(stage.role, pixels)
        operators += by_kind(key, nodes(bundle.file(target, key), key, component, threads, runs))
    return tuple(sorted(operators, key=lambda item: -item.seconds))


def _profiler(target: str) -> Profiler:
    if target == "executorch":
        from microforge_benchmarks.measure.etdump import executorch_nodes

        return executorch_nodes
    return _onnx_nodes


def by_kind(component: str, nodes: Iterable[Node]) -> list[Operator]:
    """One entry per kind of operator with the sum of its nodes' medians.

    The first evaluation of every node is ignored, because it includes the allocation of memory.
    """
    seconds: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for kind, values in nodes:
        seconds[kind] += statistics.median(values[1:] or values)
        counts[kind] += 1
    return [
        Operator(component=component, operator=kind, nodes=counts[kind], seconds=seconds[kind])
        for kind in seconds
    ]


def _onnx_nodes(path: Path, key: str, component: Component, threads: int | None, runs: int) -> Iterable[Node]:
    return kernels(_events(path, component, threads, runs))


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
        for _ in range(runs + 1):  # the first one is ignored
            session.run(None, inputs)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return events


def kernels(events: Iterable[Mapping[str, Any]]) -> list[Node]:
    """Group the kernel events of ONNX Runtime's profile, whose durations are in microseconds, by node."""
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            durations[str(event["args"]["op_name"]), name].append(float(event["dur"]) / 1e6)
    return [(kind, values) for (kind, _), values in durations.items()]
