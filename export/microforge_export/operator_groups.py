"""Which operator group (``group_names``) each ONNX node with weights belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from microforge_export.group_names import Kind, group_name
from microforge_export.program import Component

#: The operators with weights that quantization changes, and the position of the weight.
WEIGHT_INPUT: Mapping[str, int] = {"Conv": 1, "MatMul": 1, "Gemm": 1, "Gather": 0}
_KINDS: Mapping[str, Kind] = {"Conv": "conv", "MatMul": "matmul", "Gemm": "matmul", "Gather": "gather"}


def operator_groups(component: Component, graph: onnx.GraphProto) -> dict[str, str]:
    """Node name -> group, of every node with a weight of at least two axes, in graph order.

    A folded transpose has lost its parameter's name, so weights are found by content, transposed or not.
    A weight that is no parameter (made from several) belongs to ``KIND other``.
    """
    names = _parameter_names(component)
    weights = {item.name: item for item in graph.initializer if len(item.dims) >= 2}
    groups: dict[str, str] = {}
    for node in graph.node:
        position = WEIGHT_INPUT.get(node.op_type)
        if position is None or node.input[position] not in weights:
            continue
        weight = numpy_helper.to_array(weights[node.input[position]])
        if weight.dtype != np.float32:
            continue
        path = names.get(_digest(weight))
        groups[node.name] = group_name(_KINDS[node.op_type], path)
    return groups


def _parameter_names(component: Component) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for name, parameter in component.module.named_parameters():
        if parameter.dim() < 2:
            continue
        value = parameter.detach().numpy()
        found.setdefault(_digest(value), name)
        if value.ndim == 2:
            found.setdefault(_digest(value.T), name)
    return found


def _digest(value: NDArray[np.generic]) -> bytes:
    return hashlib.sha256(f"{value.shape}".encode() + np.ascontiguousarray(value).tobytes()).digest()
