"""What a processor can do at the sizes of a model: products per second, and bytes per second of weights that are read.

A bound from these rates says how far an engine is from the machine, and not from a data sheet.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from pydantic import Field

from microforge.bundle.entry import Entry
from microforge.errors import missing_extra

#: (rows, inner, columns) of a product: one that fills the arithmetic units, and one as in a layer of ``tiny``.
LARGE, LAYER = (1024, 1024, 1024), (64, 256, 1024)
_REPEATS = 12
#: More than any cache holds; written between two reads of cold weights.
_EVICTION_BYTES = 128 * 2**20
#: Of the flags of a processor, those that int8 and bfloat16 kernels use.
_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)


class ProcessorRates(Entry):
    """Best of several measurements.

    ``operations_s``: kind ("int8", "bf16", "fp32") -> operations per second of a large product; ``layer_operations_s`` the
    same for a product of a layer. ``bytes_s``: "warm" (read again and again) and "cold" (after other data filled the
    caches) -> bytes per second of one thread that reads ``read_bytes``.
    """

    processor: str
    threads: int
    operations_s: Mapping[str, float] = Field(default={})
    layer_operations_s: Mapping[str, float] = Field(default={})
    read_bytes: int
    bytes_s: Mapping[str, float] = Field(default={})


def processor_rates(read_bytes: int, threads: int) -> ProcessorRates:
    """Measure this machine; ``read_bytes`` is the size of a model's weights. bf16 is left out without PyTorch.

    Raises:
        MissingExtraError: when onnx or onnxruntime is not installed.
    """
    rates: dict[tuple[int, int, int], dict[str, float]] = {}
    for shape in (LARGE, LAYER):
        operations = 2 * shape[0] * shape[1] * shape[2]
        products = {kind: _onnx_product(kind, shape, threads) for kind in ("fp32", "int8")}
        bf16 = _torch_product(shape, threads)
        if bf16 is not None:
            products["bf16"] = bf16
        rates[shape] = {kind: operations / _best(product) for kind, product in products.items()}
    return ProcessorRates(
        processor=processor_name(), threads=threads, operations_s=rates[LARGE],
        layer_operations_s=rates[LAYER], read_bytes=read_bytes, bytes_s=_bandwidth(read_bytes),
    )  # fmt: skip


def processor_name() -> str:
    """Model and vector extensions, as ``AMD EPYC (avx2, avx512f, avx512_vnni)``."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    entries = [line.partition(":") for line in lines]
    values = {key.strip(): value.strip() for key, _, value in reversed(entries)}
    flags = (values.get("flags") or values.get("Features") or "").split()
    extensions = ", ".join(flag for flag in _FLAGS if flag in flags)
    return f"{values.get('model name', platform.machine())}" + (f" ({extensions})" if extensions else "")


def _onnx_product(kind: str, shape: tuple[int, int, int], threads: int) -> Callable[[], object]:
    """A product in ONNX Runtime, with a constant right side like weights; int8 is uint8 times int8."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise missing_extra("onnx", "bench") from None
    rows, inner, columns = shape
    types = (
        (np.uint8, np.int8, TensorProto.INT32)
        if kind == "int8"
        else (np.float32, np.float32, TensorProto.FLOAT)
    )
    left = np.ones((rows, inner), types[0])
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if kind == "int8" else "MatMul", ["a", "b"], ["c"])], "product",
        [helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(left.dtype), left.shape)],
        [helper.make_tensor_value_info("c", types[2], (rows, columns))],
        [numpy_helper.from_array(np.ones((inner, columns), types[1]), "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"a": left})


def _torch_product(shape: tuple[int, int, int], threads: int) -> Callable[[], object] | None:
    try:
        import torch
    except ImportError:
        return None
    rows, inner, columns = shape
    torch.set_num_threads(threads)
    left, right = (
        torch.ones(rows, inner, dtype=torch.bfloat16),
        torch.ones(inner, columns, dtype=torch.bfloat16),
    )
    return lambda: torch.mm(left, right)


def _bandwidth(count: int) -> dict[str, float]:
    data, other = np.ones(max(count // 8, 1), np.int64), np.zeros(_EVICTION_BYTES // 8, np.int64)

    def evict() -> None:
        other[:] += 1

    return {
        "warm": data.nbytes / _best(data.sum),
        "cold": data.nbytes / _best(data.sum, before=evict, repeats=5),
    }


def _best(
    action: Callable[[], object], before: Callable[[], None] | None = None, repeats: int = _REPEATS
) -> float:
    """Shortest time of ``action`` in seconds, after one call for warm-up."""
    times = []
    for _ in range(repeats + 1):
        if before is not None:
            before()
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times[1:])
