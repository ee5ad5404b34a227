"""Where the time goes inside an ExecuTorch program: its own event trace (ETDump), summed per kind of operator.

The trace of ExecuTorch's Python binding holds what the portable kernels take and, by XNNPACK's own profiler, every
operator inside a delegate. Read by ``executorch.devtools.Inspector``; both come with the extra ``executorch``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import statistics
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from microforge.bench_rows import Operator
from microforge.bundle import DRAWING, Component
from microforge.bundle_files import load_bundle
from microforge.errors import missing_extra
from microforge.quiet import quiet

#: Events that hold others, which are counted by themselves.
_OUTER = frozenset({"Method::execute", "DELEGATE_CALL", "OPERATOR_CALL"})
_BLOCK = "Execute"
_NUMBER = re.compile(r" #\d+$")


def profile_executorch(
    path: str, size: tuple[int, int] | None, threads: int | None, runs: int
) -> tuple[Operator, ...]:
    """Seconds of every kind of operator over one evaluation of each component, slowest first.

    Raises:
        BundleError: for a bundle without ExecuTorch programs. MissingExtraError: without executorch.
    """
    bundle = load_bundle(path)
    pixels = bundle.size(size).size
    found: list[Operator] = []
    for role in DRAWING:
        key, component = bundle.component(role, None if role == "text_encoder" else pixels)
        found += summarize_events(key, _events(bundle.file("executorch", key), key, component, threads, runs))
    return tuple(sorted(found, key=lambda item: -item.seconds))


def _events(
    path: Path, key: str, component: Component, threads: int | None, runs: int
) -> list[tuple[str, list[float]]]:
    """Name and milliseconds of every evaluation, of every event of the method ``key``."""
    with quiet("torch.utils._pytree"):
        try:
            torch = importlib.import_module("torch")
            binding = importlib.import_module("executorch.extension.pybindings.portable_lib")
            inspector = importlib.import_module("executorch.devtools").Inspector
        except ImportError:
            raise missing_extra("executorch", "executorch") from None
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        if threads is not None:
            binding._unsafe_reset_threadpool(threads)
        module: Any = binding._load_for_executorch(str(path), None, True)
        inputs = tuple(
            torch.full(spec.shape, 0.5).to(getattr(torch, spec.dtype)) for spec in component.inputs
        )
        for _ in range(runs + 1):  # the first one is not counted
            module.run_method(key, inputs)
        trace = Path(folder) / "trace.etdp"
        module.write_etdump_result_to_file(str(trace), None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no tensors were recorded, says it
            blocks = inspector(etdump_path=str(trace)).event_blocks
        return [
            (str(event.name), list(event.perf_data.raw))
            for block in blocks
            if block.name == _BLOCK
            for event in block.events
            if event.perf_data is not None
        ]


def summarize_events(component: str, events: Iterable[tuple[str, Sequence[float]]]) -> list[Operator]:
    """Events (name, milliseconds of each evaluation) as one entry per kind of operator.

    ``Add (ND) #3`` is of the kind ``Add (ND)``. The first evaluation is left out.
    """
    seconds: dict[str, float] = defaultdict(float)
    nodes: dict[str, int] = defaultdict(int)
    for name, values in events:
        kind = _NUMBER.sub("", name)
        if kind not in _OUTER:
            seconds[kind] += statistics.median(values[1:] or values) / 1e3
            nodes[kind] += 1
    return [
        Operator(component=component, operator=kind, nodes=nodes[kind], seconds=seconds[kind])
        for kind in seconds
    ]
