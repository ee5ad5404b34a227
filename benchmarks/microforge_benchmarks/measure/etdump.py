"""Time of each node of an ExecuTorch program, from its event trace (ETDump).

The trace of ExecuTorch's Python binding holds the portable kernels and, from XNNPACK's profiler, every operator inside a
delegate. ``executorch.devtools.Inspector`` reads it; both come with the extra ``executorch``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from microforge.bundle.manifest import Component
from microforge.errors import missing_extra
from microforge.io.quiet import quiet
from microforge_benchmarks.measure.node import Node
from microforge_runtimes.engines.executorch import engine

#: Events that contain other events, which are counted on their own.
_OUTER = frozenset({"Method::execute", "DELEGATE_CALL", "OPERATOR_CALL"})
_BLOCK = "Execute"
_NUMBER = re.compile(r" #\d+$")


def executorch_nodes(
    path: Path, key: str, component: Component, threads: int | None, runs: int
) -> list[Node]:
    """Profile the nodes of the method ``key``.

    Raises:
        MissingExtraError: when executorch is not installed.
    """
    libraries = engine()
    try:
        with quiet("torch.utils._pytree"):
            inspector = importlib.import_module("executorch.devtools").Inspector
    except ImportError:
        raise missing_extra("executorch", "executorch") from None
    torch, binding = libraries.torch, libraries.binding
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        if threads is not None:
            binding._unsafe_reset_threadpool(threads)
        module: Any = binding._load_for_executorch(str(path), None, True)
        inputs = tuple(
            torch.full(spec.shape, 0.5).to(getattr(torch, spec.dtype)) for spec in component.inputs
        )
        for _ in range(runs + 1):  # the first one is ignored
            module.run_method(key, inputs)
        trace = Path(folder) / "trace.etdp"
        module.write_etdump_result_to_file(str(trace), None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that no tensors were recorded
            blocks = inspector(etdump_path=str(trace)).event_blocks
        return nodes(
            (str(event.name), list(event.perf_data.raw))
            for block in blocks
            if block.name == _BLOCK
            for event in block.events
            if event.perf_data is not None
        )


def nodes(events: Iterable[tuple[str, Sequence[float]]]) -> list[Node]:
    """Convert events (name, milliseconds of each evaluation) to nodes; ``Add (ND) #3`` has the kind ``Add (ND)``."""
    kinds = ((_NUMBER.sub("", name), [value / 1e3 for value in values]) for name, values in events)
    return [(kind, values) for kind, values in kinds if kind not in _OUTER]
