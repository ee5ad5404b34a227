"""One weight file for many ONNX graphs, in which equal tensors are stored once.

Tensors of at least ``INLINE_BELOW`` bytes are written to the shared file as ONNX external data, at offsets that are
multiples of ``ALIGNMENT``; smaller ones stay in the graph. The order of calls of ``add`` determines the bytes, so two
builds of the same graphs write the same files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import onnx
import onnx_ir as ir

ALIGNMENT = 64  # a cache line
INLINE_BELOW = 1024


@dataclass(frozen=True)
class Extent:
    """The position of a tensor in the shared file, in bytes."""

    offset: int
    length: int


@dataclass
class SharedWeights:
    """The shared file while it is being written; use it as a context manager."""

    path: Path
    stream: BinaryIO | None = None
    extents: dict[bytes, Extent] = field(default_factory=dict)  # by SHA-256 of the content

    def __enter__(self) -> Self:
        self.stream = self.path.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stream is not None:
            self.stream.close()

    def add(self, data: bytes) -> Extent:
        """Store ``data`` unless it is stored already; returns its position."""
        digest = hashlib.sha256(data).digest()
        if digest not in self.extents:
            assert self.stream is not None, "not open"
            offset = -(-self.stream.tell() // ALIGNMENT) * ALIGNMENT
            self.stream.write(bytes(offset - self.stream.tell()))
            self.stream.write(data)
            self.extents[digest] = Extent(offset, len(data))
        return self.extents[digest]


def write_graph(model: ir.Model, path: Path, weights: SharedWeights) -> None:
    """Write ``model`` to ``path`` and its large constants to the shared file in the same folder.

    ONNX Runtime and onnx.checker accept external data only under a relative path inside the folder of the graph, so
    the graph refers to the shared file by its name.

    Raises:
        ValueError: if the two files are not in one folder.
    """
    if path.parent != weights.path.parent:
        raise ValueError(f"{path} must lie in the folder of {weights.path}")
    for name, value in model.graph.initializers.items():
        constant = value.const_value
        assert constant is not None
        if constant.nbytes < INLINE_BELOW:
            value.const_value = ir.tensor(constant.numpy(), name=name)
            continue
        extent = weights.add(constant.tobytes())
        value.const_value = ir.ExternalTensor(
            weights.path.name, extent.offset, extent.length, constant.dtype,
            shape=ir.Shape(constant.shape.numpy()), name=name, base_dir=path.parent,
        )  # fmt: skip
    proto = ir.to_proto(model)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def check_graph(path: Path) -> None:
    """Check a file with onnx.checker and strict shape inference.

    Raises:
        onnx.checker.ValidationError: if the file is not valid ONNX.
        onnx.shape_inference.InferenceError: if its shapes contradict one another.
    """
    onnx.checker.check_model(str(path), full_check=True)


def shared_digest(path: Path) -> str:
    """SHA-256, in hex, of all bytes that the graph in ``path`` reads from files beside it, in its order.

    It tells which of the graphs that share a damaged file are affected. Missing bytes are left out.
    """
    digest = hashlib.sha256()
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {item.key: item.value for item in tensor.external_data}
            with (path.parent / place["location"]).open("rb") as stream:
                stream.seek(int(place["offset"]))
                digest.update(stream.read(int(place["length"])))
    return digest.hexdigest()
