"""Where the time goes inside an ExecuTorch program: its own event trace (ETDump), by node.

The trace of ExecuTorch's Python binding holds what the portable kernels take and, by XNNPACK's own profiler, every
operator inside a delegate. Read by ``executorch.devtools.Inspector``; both come with the extra ``executorch``.
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

#: Events that hold others, which are counted by themselves.
_OUTER = frozenset({"Method::execute", "DELEGATE_CALL", "OPERATOR_CALL"})
_BLOCK = "Execute"
_NUMBER = re.compile(r" #\d+$")


def executorch_nodes(
    path: Path, key: str, component: Component, threads: int | None, runs: int
) -> list[Node]:
    """The nodes of the method ``key``.

    Raises:
        MissingExtraError: without executorch.
    """
    found = engine()
    try:
        with quiet("torch.utils._pytree"):
            inspector = importlib.import_module("executorch.devtools").Inspector
    except ImportError:
        raise missing_extra("executorch", "executorch") from None
    torch, binding = found.torch, found.binding
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
        return nodes(
            (str(event.name), list(event.perf_data.raw))
            for block in blocks
            if block.name == _BLOCK
            for event in block.events
            if event.perf_data is not None
        )


def nodes(events: Iterable[tuple[str, Sequence[float]]]) -> list[Node]:
    """Events (name, milliseconds of each evaluation) as nodes: ``Add (ND) #3`` is of the kind ``Add (ND)``."""
    kinds = ((_NUMBER.sub("", name), [value / 1e3 for value in values]) for name, values in events)
    return [(kind, values) for kind, values in kinds if kind not in _OUTER]
