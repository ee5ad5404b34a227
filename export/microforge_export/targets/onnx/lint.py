"""Refuses graphs that engines on phones cannot run, or run badly; counts operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from microforge.errors import GraphLintError
from microforge_export.targets.base import HALF_MAX, MAX_RANK, most_frequent_first

#: Operators whose work or output shape depends on values: engines on phones run them badly or not at all.
REFUSED = frozenset({"Loop", "Scan", "If", "NonZero", "NonMaxSuppression", "Unique", "Compress"})
TYPES = frozenset({
    ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.INT8,
    ir.DataType.UINT8, ir.DataType.BOOL,
})  # fmt: skip


def lint(component: str, model: ir.Model) -> None:
    """Refuse control flow, value-dependent shapes, dynamic dimensions, float64, more than five axes, and constants
    beyond the range of half precision.

    Raises:
        GraphLintError: names the component and every node at fault, at most five of them.
    """
    problems = list(_problems(model))
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise GraphLintError(f"{component}: {'; '.join(problems[:5])}{more}")


def _problems(model: ir.Model) -> Iterator[str]:
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        yield from _value_problems(value, f"tensor {value.name!r}")
    yield from _overflows(model)
    for node in model.graph.all_nodes():
        where = f"node {node.name or '?'} ({node.op_type})"
        if node.domain not in ("", "ai.onnx"):
            yield f"{where} belongs to {node.domain}, not to standard ONNX"
        if node.op_type in REFUSED or any(_holds_graph(value) for value in node.attributes.values()):
            yield f"{where} is control flow or has a shape that depends on values"
            continue
        for value in node.outputs:
            yield from _value_problems(value, where)


def _value_problems(value: ir.Value, where: str) -> Iterator[str]:
    if value.dtype not in TYPES:
        yield f"{where} has type {value.dtype.name if value.dtype else 'unknown'}"
    if value.shape is None or not all(isinstance(side, int) for side in value.shape):
        yield f"{where} has a dynamic shape {value.shape}"
    elif len(value.shape) > MAX_RANK:
        yield f"{where} has {len(value.shape)} axes, at most {MAX_RANK} are supported"


def _overflows(model: ir.Model) -> Iterator[str]:
    for name, value in model.graph.initializers.items():
        if value.dtype is ir.DataType.FLOAT and value.const_value is not None:
            largest = float(np.abs(value.const_value.numpy()).max(initial=0.0))
            if not largest <= HALF_MAX:  # NaN too
                yield f"constant {name!r} reaches {largest:g}, half precision only {HALF_MAX:g}"


def _holds_graph(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def operator_counts(models: Iterable[ir.Model]) -> dict[str, int]:
    """The number of each operator in all ``models`` together, the most frequent first."""
    return most_frequent_first(Counter(node.op_type for model in models for node in model.graph.all_nodes()))
