"""Support of a graph by phone accelerators, as ONNX Runtime's own tools report it. Nothing runs on a device.

``onnxruntime.tools.mobile_helpers.usability_checker`` compares operators with the lists of NNAPI and Core ML that
ship with ONNX Runtime, and ``get_qnn_qdq_config`` tells which nodes the QNN quantizer would take. Only a run on a
device shows what its driver supports.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
from onnxruntime.tools.mobile_helpers import usability_checker

from microforge_export.targets.base import Usability

_CHECKS: Mapping[str, Callable[[onnx.ModelProto], Any]] = {
    "nnapi": lambda model: usability_checker.check_nnapi_partitions(model, True),
    "coreml": lambda model: usability_checker.check_coreml_partitions(
        model, True, "coreml_supported_mlprogram_ops.md"
    ),
}


def usability(model: onnx.ModelProto) -> dict[str, Usability]:
    """The report on every accelerator, by its name; ``model`` must have the shapes of its tensors."""
    with _quiet():
        reports = {name: _usability(check(model)) for name, check in _CHECKS.items()}
        return {**reports, "qnn": _qnn(model)}


def _usability(info: Any) -> Usability:
    return Usability(
        nodes=info.num_nodes,
        supported=info.num_supported_nodes,
        partitions=info.num_partitions,
        verdict=info.suitability().name.lower(),
        unsupported=tuple(sorted(str(name) for name in info.unsupported_ops)),
    )


def _qnn(model: onnx.ModelProto) -> Usability:
    """Nodes that are in QDQ form, or that the configuration of QNN would quantize."""
    nodes = [node for node in model.graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    config = get_qnn_qdq_config(
        model, None, weight_type=QuantType.QInt8, weight_symmetric=True, per_channel=True
    )
    supported = set(config.op_types_to_quantize) - {"QuantizeLinear", "DequantizeLinear"}
    return Usability(
        nodes=len(nodes),
        supported=sum(node.op_type in supported for node in nodes),
        partitions=0,
        verdict="unknown",
        unsupported=tuple(sorted({node.op_type for node in nodes} - supported)),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tools, which write every decision to the root logger."""
    logger = logging.getLogger()
    drop: Callable[[logging.LogRecord], bool] = lambda _: False  # noqa: E731
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
