"""Counts which operators of a lowered ExecuTorch program run in delegates, and why the others do not."""

from __future__ import annotations

import logging
import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from executorch.exir.backend.utils import WhyNoPartition
from executorch.exir.delegate import executorch_call_delegate
from executorch.exir.lowered_backend_module import get_lowered_submodules
from torch import Tensor, fx
from torch.export import ExportedProgram

from microforge.bundle.targets import Coverage

#: The partitioner logs its reasons to the children of this logger.
_PARTITIONER = "executorch.backends.xnnpack.partition.config"
#: Operators for which the partitioner has no configuration, and why.
_NO_KERNEL = {
    "aten.embedding.default": "XNNPACK has no table look-up by int64 ids; the portable kernel runs it",
}


@contextmanager
def rejections() -> Iterator[Mapping[str, str]]:
    """Yield a mapping from operator to the reason of the XNNPACK partitioner, filled while the block lowers programs."""
    reasons: dict[str, str] = {}

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.msg, WhyNoPartition) and record.msg.node is not None:
                reasons[operator_name(record.msg.node)] = record.msg.reason

    logger, collector = logging.getLogger(_PARTITIONER), Collector()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # these messages are not for the terminal
    logger.addHandler(collector)
    try:
        yield reasons
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagate


def operator_name(node: fx.Node) -> str:
    """The name of an operator of the ATen or edge dialect, for example ``aten.add.Tensor``."""
    target: Any = node.target  # an ATen operator has an attribute _op, too, which is a bare function
    return str(target if isinstance(target, torch._ops.OpOverload) else getattr(target, "_op", target))


def operators(graph: fx.Graph) -> list[str]:
    """The operators of a graph, without delegate calls and the selection of their results."""
    return [
        operator_name(node)
        for node in graph.nodes
        if node.op == "call_function" and node.target not in (operator.getitem, executorch_call_delegate)
    ]


def delegate_graphs(program: ExportedProgram) -> list[fx.Graph]:
    """The graph of every delegate of a lowered program, in order."""
    modules = get_lowered_submodules(program.graph_module)
    return [lowered.original_module.graph for _, lowered, _ in modules]


def coverage(program: ExportedProgram, reasons: Mapping[str, str]) -> Coverage:
    """Operator counts of a lowered program, and the reason for each operator outside its delegates."""
    inside = [name for graph in delegate_graphs(program) for name in operators(graph)]
    outside = operators(program.graph)
    unknown = "XNNPACK has no such operator; the portable kernel runs it"
    return Coverage(
        operators=len(inside) + len(outside),
        delegated=len(inside),
        delegates=len(delegate_graphs(program)),
        outside={name: _NO_KERNEL.get(name) or reasons.get(name, unknown) for name in dict.fromkeys(outside)},
    )


def operator_counts(program: ExportedProgram) -> Counter[str]:
    """The number of each operator, inside and outside delegates."""
    return Counter(operators(program.graph)) + sum(
        (Counter(operators(graph)) for graph in delegate_graphs(program)), Counter()
    )


def live_bytes(graph: fx.Graph) -> int:
    """Peak bytes of live intermediate results when ``graph`` runs in its order.

    This predicts the workspace that a delegate plans while it loads: nothing is computed in place, and views are
    copies. Inputs and constants are not counted.
    """
    last = {source: node for node in graph.nodes for source in node.all_input_nodes}
    dying: dict[fx.Node, list[fx.Node]] = {}
    for source, node in last.items():
        dying.setdefault(node, []).append(source)
    alive = peak = 0
    for node in graph.nodes:
        if node.op == "call_function":
            alive += _bytes(node)
            peak = max(peak, alive)
        alive -= sum(_bytes(source) for source in dying.get(node, ()) if source.op == "call_function")
    return peak


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
