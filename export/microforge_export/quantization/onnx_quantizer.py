"""Quantizes an fp32 ONNX graph to int8 weights, one operator group at a time.

``static`` (QDQ with calibrated ranges) and ``dynamic`` are the quantizers of ONNX Runtime; ``weight-only`` stores
int8 and computes in fp32. Weights are symmetric per output channel, so equal weights of several graphs have equal
bytes and are stored once. Activations are uint8 (u8s8), which the int8 kernels of x86 and ARM take. Biases stay in
fp32: int32 biases would depend on the ranges of a graph, and so on its image size, and ONNX Runtime gives two of
them the same name when it quantizes the biases of all operators.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx_ir.passes import common as passes
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from microforge.errors import GraphLintError, SpecError
from microforge_export.checks.golden import Array
from microforge_export.components.operator_groups import WEIGHT_INPUT
from microforge_export.memory.liveness import FUSED
from microforge_export.recipes.int8_recipe import Scheme

#: The schemes that each kind of operator supports. ONNX Runtime has dynamic kernels for matrices only.
SUPPORTED: Mapping[str, tuple[Scheme, ...]] = {
    "conv": ("weight-only", "static"),
    "matmul": ("weight-only", "dynamic", "static"),
    "gather": ("weight-only",),
}


@dataclass
class _RecordedInputsReader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    """Recorded inputs in the form that ONNX Runtime's calibration reads."""

    inputs: Sequence[Mapping[str, Array]]
    position: int = 0

    def get_next(self) -> dict[str, Array] | None:
        if self.position == len(self.inputs):
            return None
        self.position += 1
        return dict(self.inputs[self.position - 1])


def quantize(
    model: onnx.ModelProto, groups: Mapping[str, str], schemes: Mapping[str, Scheme],
    inputs: Sequence[Mapping[str, Array]], ranges: Path | None = None,
) -> ir.Model:  # fmt: skip
    """Quantize a copy of ``model``.

    Args:
        model: a graph in fp32.
        groups: node name -> operator group, from ``operator_groups``.
        schemes: operator group -> scheme; groups that are not named stay in fp32.
        inputs: recorded inputs of the component; only needed for ``static``.
        ranges: file that stores the calibrated ranges between calls for the same model and inputs.

    Raises:
        SpecError: if a group is unknown or does not support its scheme.
        GraphLintError: if the result is not valid ONNX.
    """
    check_schemes(groups, schemes)
    nodes = {
        scheme: [name for name, group in groups.items() if schemes.get(group) == scheme]
        for scheme in ("static", "dynamic", "weight-only")
    }
    result = onnx.ModelProto()
    result.CopyFrom(model)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        if nodes["static"]:
            result = _static(result, nodes["static"], inputs, Path(folder), ranges)
        if nodes["dynamic"]:
            result = _dynamic(result, nodes["dynamic"], Path(folder))
    # ONNX Runtime has no dynamic Gemm and converts each to NAME_MatMul in fp32; its weights are stored as int8 here.
    gemms = {node.name for node in model.graph.node if node.op_type == "Gemm"}
    weight_only = gemms.intersection(nodes["dynamic"]).union(nodes["weight-only"])
    names = {node.name for node in result.graph.node if node.name.removesuffix("_MatMul") in weight_only}
    if names:
        _quantize_weights(result.graph, names)
    return _checked(result)


def check_schemes(groups: Mapping[str, str], schemes: Mapping[str, Scheme]) -> None:
    """Refuse schemes that the operator groups of a graph do not support.

    Raises:
        SpecError: names the group and what is allowed.
    """
    known = sorted(set(groups.values()))
    for group, scheme in schemes.items():
        if group not in known:
            raise SpecError(
                f"the recipe names an operator group {group!r}; this model has: {', '.join(known)}"
            )
        allowed = ("fp32", *SUPPORTED[group.split()[0]])
        if scheme not in allowed:
            raise SpecError(f"operator group {group!r} cannot be {scheme!r}; allowed: {', '.join(allowed)}")


def _static(
    model: onnx.ModelProto, nodes: list[str], inputs: Sequence[Mapping[str, Array]], folder: Path, ranges: Path | None
) -> onnx.ModelProto:  # fmt: skip
    if not inputs:
        raise SpecError("static quantization needs recorded inputs of the component, got none")
    target = folder / "static.onnx"
    quantize_static(
        model,
        target,
        _RecordedInputsReader(inputs),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(FUSED),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=nodes,
        extra_options={"QuantizeBias": False, "MatMulConstBOnly": True},
        calibration_cache_path=ranges,
    )
    return onnx.load(target)


def _dynamic(model: onnx.ModelProto, nodes: list[str], folder: Path) -> onnx.ModelProto:
    target = folder / "dynamic.onnx"
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=nodes,
        extra_options={"MatMulConstBOnly": True, "EnableSubgraph": False},
    )
    return onnx.load(target)


def _quantize_weights(graph: onnx.GraphProto, names: set[str]) -> None:
    """Store the weights of the nodes ``names`` as int8; rows of a table become floats after the look-up."""
    constants = {item.name: item for item in graph.initializer}
    stems: dict[tuple[str, int], str] = {}  # a weight that several nodes share is stored once
    nodes = []
    for node in graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        position = WEIGHT_INPUT[node.op_type]
        source = node.input[position]
        axis = _channel_axis(node)
        first = (source, axis) not in stems
        stem = stems.setdefault((source, axis), f"{source}_int8_{axis}")
        if first:
            values, scale = per_channel(numpy_helper.to_array(constants[source]), axis)
            graph.initializer.append(numpy_helper.from_array(values, stem))
            flat = scale if node.op_type != "Gather" else scale.reshape(-1, *[1] * (values.ndim - 1))
            graph.initializer.append(numpy_helper.from_array(flat, f"{stem}_scale"))
        if node.op_type == "Gather":
            nodes += _gather(node, stem)
            continue
        if first:
            names_in = [stem, f"{stem}_scale"]
            nodes.append(
                helper.make_node("DequantizeLinear", names_in, [f"{stem}_float"], f"{stem}_node", axis=axis)
            )
        node.input[position] = f"{stem}_float"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _gather(node: onnx.NodeProto, stem: str) -> list[onnx.NodeProto]:
    """Look up rows and their scales, then multiply: the table itself is never converted to floats."""
    rows, scales, floats = (f"{node.name}_{part}" for part in ("rows", "scales", "floats"))
    return [
        helper.make_node("Gather", [stem, node.input[1]], [rows], rows, axis=0),
        helper.make_node("Gather", [f"{stem}_scale", node.input[1]], [scales], scales, axis=0),
        helper.make_node("Cast", [rows], [floats], floats, to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [floats, scales], list(node.output), node.name),
    ]


def _channel_axis(node: onnx.NodeProto) -> int:
    """The axis of the weight that indexes output channels, or the rows of a table."""
    if node.op_type == "Gemm":
        transposed = any(item.name == "transB" and item.i for item in node.attribute)
        return 0 if transposed else 1
    return 1 if node.op_type == "MatMul" else 0


def per_channel(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize ``weight`` to symmetric int8 values and one scale per index of ``axis``: ``weight = values * scale``.

    Values are in -127 ... 127; a channel of zeros has the scale 1.
    """
    others = tuple(item for item in range(weight.ndim) if item != axis)
    scale = (np.abs(weight).max(axis=others) / np.float32(127.0)).astype(np.float32)
    scale[scale == 0.0] = 1.0
    shape = [-1 if item == axis else 1 for item in range(weight.ndim)]
    values: NDArray[np.int8] = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
    return values, scale


def _checked(model: onnx.ModelProto) -> ir.Model:
    """``model`` without unused constants, with inferred types and shapes, and checked."""
    for value in list(model.graph.value_info):  # old ones would contradict the new graph
        model.graph.value_info.remove(value)
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphLintError(f"quantized graph: onnx.checker: {' '.join(str(error).split())[:300]}") from None
    result = ir.from_proto(model)
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.TopologicalSortPass(),
        passes.ClearMetadataAndDocStringPass(),
    )(result)
    result.producer_name = result.producer_version = None
    result.metadata_props.clear()
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice that ONNX Runtime's quantizers write to the root logger."""
    drop: Callable[[logging.LogRecord], bool] = lambda _: False  # noqa: E731
    logger = logging.getLogger()
    logger.addFilter(drop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeFilter(drop)
