"""Which operator group (``group_names``) each ONNX node with weights belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from microforge_export.components.component import SourceComponent
from microforge_export.components.group_names import Kind, group_name

#: The operators with weights that quantization changes, and the position of the weight.
WEIGHT_INPUT: Mapping[str, int] = {"Conv": 1, "MatMul": 1, "Gemm": 1, "Gather": 0}
_KINDS: Mapping[str, Kind] = {"Conv": "conv", "MatMul": "matmul", "Gemm": "matmul", "Gather": "gather"}


#: Begins the name of a weight that ``onnx_merge`` put together; the path of its first parameter follows.
_MERGED = "merged:"


def operator_groups(component: SourceComponent, graph: onnx.GraphProto) -> dict[str, str]:
    """Node name -> group, of every node with a weight of at least two axes, in graph order.

    A folded transpose has lost its parameter's name, so weights are found by content, transposed or not; those of
    merged layers, which share a group, by the first one's name. A weight that was made from several parameters
    otherwise belongs to ``KIND other``. Batched products have no group: their constants are no layers, but the order of
    a scan and the like, and engines have no int8 kernel for them.
    """
    paths = parameter_names(component)
    weights = {item.name: item for item in graph.initializer if len(item.dims) >= 2}
    groups: dict[str, str] = {}
    for node in graph.node:
        position = WEIGHT_INPUT.get(node.op_type)
        if position is None or node.input[position] not in weights:
            continue
        name = node.input[position]
        weight = numpy_helper.to_array(weights[name])
        if weight.dtype != np.float32 or (node.op_type == "MatMul" and weight.ndim > 2):
            continue
        merged = name.startswith(_MERGED)
        path = name.removeprefix(_MERGED).split("+")[0] if merged else paths.get(digest(weight))
        groups[node.name] = group_of(node.op_type, path)
    return groups


def group_of(operator: str, path: str | None) -> str:
    """The group of an ``operator`` with weights whose parameter is called ``path``."""
    return group_name(_KINDS[operator], path)


def merged_name(paths: Sequence[str]) -> str:
    """A name for the layers with these parameters put together."""
    first, *rest = paths
    return f"{_MERGED}{first}+{len(rest)}"


def parameter_names(component: SourceComponent) -> dict[bytes, str]:
    """Digest of the content -> name, of every parameter with at least two axes, as it is and transposed."""
    found: dict[bytes, str] = {}
    for name, parameter in component.module.named_parameters():
        if parameter.dim() < 2:
            continue
        value = parameter.detach().numpy()
        found.setdefault(digest(value), name)
        if value.ndim == 2:
            found.setdefault(digest(value.T), name)
    return found


def digest(value: NDArray[np.generic]) -> bytes:
    """SHA-256 of an array's shape and content."""
    return hashlib.sha256(f"{value.shape}".encode() + np.ascontiguousarray(value).tobytes()).digest()
