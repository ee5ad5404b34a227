"""Roofline of text-to-image generation: a lower bound of its time on a machine.

The bound is the larger of two times: operations over the rate of matrix products, and bytes over the bandwidth of memory
(Williams et al. 2009, doi 10.1145/1498765.1498785). The rates of this machine are measured with ONNX Runtime and numpy.
Those of a phone are assumptions of its profile (``microforge.bundle.devices``), so its bound is a projection.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from microforge.bundle.devices import DeviceProfile
from microforge.bundle.files import Bundle
from microforge.errors import missing_extra
from microforge_benchmarks.measure.graph_cost import GraphCost, read_cost

_SIDE, _COPY_BYTES, _REPEATS = 512, 64 * 2**20, 7


@dataclass(frozen=True)
class MachineRates:
    """Peak operations and bytes per second; ``source`` states whether they are measured or assumed."""

    fp32_op_s: float
    int8_op_s: float
    bytes_s: float
    source: str


@dataclass(frozen=True)
class RooflineBound:
    """Lower bound in seconds of one image in fp32 and in int8, and what limits each: "compute" or "memory"."""

    cost: GraphCost
    fp32_s: float
    int8_s: float
    fp32_bound_by: str
    int8_bound_by: str


def image_cost(bundle: Bundle, size: tuple[int, int] | None = None) -> GraphCost:
    """Cost of one image with the bundle's ONNX graphs; guidance doubles the evaluations of text encoder and denoiser.

    Raises:
        BundleError: when the bundle has no ONNX files for this size.
    """
    manifest, pixels = bundle.manifest, bundle.size(size).size
    branches, total = manifest.active_branches(), GraphCost(0, 0, 0)
    prompts = len({branch.prompt for branch in branches})
    evaluations = len(branches) * len(manifest.samplers[0].rows)
    for stage in manifest.stages():
        times = {"prompt_encoder": prompts, "network": evaluations}.get(stage.kind, 1)
        total += read_cost(bundle.file("onnx", bundle.component(stage.role, pixels)[0])).times(times)
    return total


def bound(cost: GraphCost, rates: MachineRates) -> RooflineBound:
    """Lower bound of the time of ``cost``; int8 moves a quarter of the bytes."""
    fp32, fp32_memory = cost.products / rates.fp32_op_s, cost.moved / rates.bytes_s
    int8, int8_memory = cost.products / rates.int8_op_s, cost.moved / 4 / rates.bytes_s
    names = {True: "compute", False: "memory"}
    return RooflineBound(
        cost, max(fp32, fp32_memory), max(int8, int8_memory), names[fp32 >= fp32_memory], names[int8 >= int8_memory]
    )  # fmt: skip


def device_rates(device: DeviceProfile) -> MachineRates:
    """Rates that the profile of a device assumes."""
    return MachineRates(
        device.fp32_gflop_s * 1e9, device.int8_gop_s * 1e9, device.bandwidth_gb_s * 1e9,
        f"assumed for {device.name}: {device.fp32_gflop_s:g} GFLOP/s fp32, {device.int8_gop_s:g} GOP/s int8, "
        f"{device.bandwidth_gb_s:g} GB/s",
    )  # fmt: skip


def machine_rates(threads: int = 1) -> MachineRates:
    """Measure the rates of this machine: square matrix products in ONNX Runtime, and a copy larger than the caches.

    Raises:
        MissingExtraError: when onnx or onnxruntime is not installed.
    """
    operations = 2 * _SIDE**3
    fp32, int8 = (operations / _seconds(_product(kind, threads)) for kind in (np.float32, np.uint8))
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    copied = 2 * _COPY_BYTES / _seconds(lambda: np.copyto(target, source))  # read and written
    return MachineRates(fp32, int8, copied, f"measured, {threads} threads for products, 1 for the copy")


def _product(kind: type[np.generic], threads: int) -> Callable[[], object]:
    """A function that multiplies two square matrices of ``kind``, of which the right one is constant, like weights."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise missing_extra("onnx", "bench") from None
    is_integer = kind is np.uint8
    types = (TensorProto.UINT8, TensorProto.INT32) if is_integer else (TensorProto.FLOAT, TensorProto.FLOAT)
    square = np.ones((_SIDE, _SIDE), kind)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if is_integer else "MatMul", ["a", "b"], ["c"])], "product",
        [helper.make_tensor_value_info("a", types[0], square.shape)],
        [helper.make_tensor_value_info("c", types[1], square.shape)],
        [numpy_helper.from_array(square, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"a": square})


def _seconds(action: Callable[[], object]) -> float:
    """Median seconds of ``action``, after one call for warm-up."""
    times = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
