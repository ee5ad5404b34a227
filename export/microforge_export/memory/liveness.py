"""Peak memory of the tensors of an ONNX graph, from its static shapes and its node order.

A tensor is live from the node that produces it to the last node that reads it. Outputs of the graph stay live to
the end, and its inputs belong to the caller for the whole run. The peak is the largest sum of live tensors over
all nodes. As in ONNX Runtime, operators that only rename (Reshape) share the memory of their input, and the
QuantizeLinear and DequantizeLinear nodes around a quantized operator are fused, so that no floats exist between
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from microforge import onnx_shapes
from microforge.onnx_shapes import RENAMES

#: Operators that ONNX Runtime computes on the integers of the DequantizeLinear before them.
FUSED = ("Conv", "MatMul", "Gemm")
#: Operators that ONNX Runtime fuses into the quantized operator beside them, and the number of further operators
#: that it fuses per dynamically quantized matrix, where the result is scaled by the product of both scales.
_FUSED_AWAY = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"})
_PER_DYNAMIC_MATRIX = 2
#: The nodes that read a tensor.
Readers = Mapping[str, Sequence[onnx.NodeProto]]


@dataclass(frozen=True)
class GraphMemory:
    """Memory of a graph in bytes.

    Attributes:
        weights: all weights except ``gathered``.
        gathered: tables that are only looked up, such as embeddings.
        convolution_weights: the part of ``weights`` that convolutions use.
        activations: peak of the live tensors, inputs and outputs included.
        nodes: approximate number of nodes after ONNX Runtime has fused the graph.
    """

    weights: int
    gathered: int
    convolution_weights: int
    activations: int
    nodes: int


def graph_memory(model: onnx.ModelProto) -> GraphMemory:
    """Measure the memory of ``model``.

    Raises:
        GraphLintError: if a shape is not static.
    """
    sizes = {name: item.bytes for name, item in onnx_shapes.weights(model).items()}
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    others = {
        name for node in model.graph.node
        for name in (node.input[1:] if node.op_type == "Gather" else node.input)
    }  # fmt: skip
    filters = {name for node in model.graph.node if "Conv" in node.op_type for name in node.input}
    gathered = sum(sizes[name] for name in looked_up - others if name in sizes)
    return GraphMemory(
        weights=sum(sizes.values()) - gathered, gathered=gathered,
        convolution_weights=sum(sizes[name] for name in filters if name in sizes),
        activations=peak_activations(model), nodes=_kernels(model.graph.node),
    )  # fmt: skip


def _kernels(nodes: Iterable[onnx.NodeProto]) -> int:
    kinds = [node.op_type for node in nodes]
    dynamic = kinds.count("MatMulInteger")
    return sum(kind not in _FUSED_AWAY for kind in kinds) - _PER_DYNAMIC_MATRIX * dynamic


def peak_activations(model: onnx.ModelProto) -> int:
    """Largest sum of live tensors in bytes, inputs and outputs included.

    Raises:
        GraphLintError: if a shape is not static.
    """
    sizes, nodes = onnx_shapes.tensors(model), list(model.graph.node)
    readers = _readers(nodes)
    owner = _owners(nodes, readers)
    quantized = _quantized(nodes, readers)
    last = _last_uses(nodes, owner, (value.name for value in model.graph.output))
    inputs = sum(sizes[value.name].bytes for value in model.graph.input)
    live: dict[str, int] = {}
    fixed = {value.name for value in model.graph.input} | {item.name for item in model.graph.initializer}
    peak = 0
    for index, node in enumerate(nodes):
        for name in node.output:
            if name and owner.get(name, name) == name:
                live[name] = sizes[quantized.get(name, name)].bytes if name in sizes else 0
        peak = max(peak, sum(live.values()))
        for name in [name for name in live if name not in fixed and last.get(name, index) <= index]:
            del live[name]
    return inputs + peak


def _owners(nodes: Iterable[onnx.NodeProto], readers: Readers) -> dict[str, str]:
    """The tensor whose memory a renamed tensor shares, by name."""
    owner: dict[str, str] = {}
    for node in nodes:
        after = {reader.op_type for reader in readers.get(node.output[0], [])}
        fused = node.op_type == "DequantizeLinear" and bool(after) and after <= set(FUSED)
        if fused or node.op_type in RENAMES:
            owner[node.output[0]] = owner.get(node.input[0], node.input[0])
    return owner


def _quantized(nodes: Iterable[onnx.NodeProto], readers: Readers) -> dict[str, str]:
    """The integer tensor that replaces the result of a fused operator that only QuantizeLinear reads, by name."""
    replaced = {}
    for node in nodes:
        after = readers.get(node.output[0], []) if node.op_type in FUSED else []
        if after and all(reader.op_type == "QuantizeLinear" for reader in after):
            replaced[node.output[0]] = after[0].output[0]
    return replaced


def _readers(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _last_uses(
    nodes: list[onnx.NodeProto], owner: Mapping[str, str], outputs: Iterable[str]
) -> dict[str, int]:
    """Index of the last node that reads a tensor's memory, by name; the number of nodes for outputs of the graph."""
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            last[owner.get(name, name)] = index
    for name in outputs:
        last[owner.get(name, name)] = len(nodes)
    return last
