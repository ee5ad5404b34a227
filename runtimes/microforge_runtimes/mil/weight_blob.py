"""Weight blobs of Core ML packages (MILBlob, storage version 2), and the element types of MIL.

A blob file starts with a 64-byte header: how many blobs there are, and the version. The program names a blob
by the offset of its 64-byte record: a sentinel, the element type, the size in bytes, the offset of the data,
and how many bits of the last byte are padding. All numbers are little endian. (The layout is that of
coremltools' ``mlmodel/src/MILBlob/Blob/StorageFormat.hpp``.)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from microforge.errors import BundleError
from microforge_runtimes.arrays import Array

VERSION, ALIGNMENT, SENTINEL = 2, 64, 0xDEADBEEF
_HEADER, _RECORD = struct.Struct("<II"), struct.Struct("<IIQQQ")


@dataclass(frozen=True)
class Element:
    """An element type: ``bits`` as stored, and the numpy type that holds one element."""

    bits: int
    dtype: DTypeLike

    @property
    def packed(self) -> bool:
        """True for types of less than a byte, whose elements lie bit by bit behind one another."""
        return self.bits < 8


#: MIL's name of every numeric element type -> how it is stored.
ELEMENTS: dict[str, Element] = {
    "bool": Element(8, np.bool_),
    "fp16": Element(16, np.float16), "fp32": Element(32, np.float32), "fp64": Element(64, np.float64),
    "int4": Element(4, np.int8), "int8": Element(8, np.int8), "int16": Element(16, np.int16),
    "int32": Element(32, np.int32), "int64": Element(64, np.int64),
    "uint1": Element(1, np.uint8), "uint2": Element(2, np.uint8), "uint3": Element(3, np.uint8),
    "uint4": Element(4, np.uint8), "uint6": Element(6, np.uint8), "uint8": Element(8, np.uint8),
    "uint16": Element(16, np.uint16), "uint32": Element(32, np.uint32), "uint64": Element(64, np.uint64),
}  # fmt: skip

#: The blob file's own numbers for the types that it can hold.
_STORED = {
    1: "fp16", 2: "fp32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1", 10: "uint2",
    11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32",
}  # fmt: skip


class BlobFile:
    """One blob file, mapped into memory; read only."""

    def __init__(self, path: Path) -> None:
        """Map the file and check its header.

        Raises:
            BundleError: when it is missing, shorter than a header, or of another version.
        """
        self.path = path
        try:
            self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise BundleError(f"{path} cannot be read: {error}; copy or build the bundle again") from None
        _, version = _HEADER.unpack(self._take(0, _HEADER.size))
        if version != VERSION:
            raise BundleError(f"{path} is a weight file of version {version}, this version reads {VERSION}")

    def read(self, offset: int, dtype: str, count: int) -> Array:
        """The blob whose record is at ``offset``, as (count,) elements of the type ``dtype``.

        Raises:
            BundleError: when there is no record, or it is not of this type and length.
        """
        where = f"{self.path}: the weight at offset {offset}"
        sentinel, stored, size, start, padding = _RECORD.unpack(self._take(offset, _RECORD.size))
        if offset % ALIGNMENT or sentinel != SENTINEL:
            raise BundleError(f"{where} has no record; copy or build the bundle again")
        if _STORED.get(stored) != dtype:
            raise BundleError(f"{where} is {_STORED.get(stored, stored)}, the program says {dtype}")
        expected = count * ELEMENTS[dtype].bits
        if size * 8 - (padding if ELEMENTS[dtype].packed else 0) != expected:
            raise BundleError(f"{where} has {size} bytes, the program needs {expected} bits")
        return elements(self._take(start, size), dtype, count)

    def _take(self, start: int, size: int) -> bytes:
        if start + size > self._bytes.size:
            raise BundleError(
                f"{self.path} ends at byte {self._bytes.size}, a weight needs {start + size}; "
                "copy or build the bundle again"
            )
        return self._bytes[start : start + size].tobytes()


def elements(data: bytes, dtype: str, count: int) -> Array:
    """(count,) elements of the type ``dtype`` from their bytes as they are stored."""
    element = ELEMENTS[dtype]
    if not element.packed:
        return np.frombuffer(data, np.dtype(element.dtype).newbyteorder("<"), count).astype(element.dtype)
    values = unpack_bits(np.frombuffer(data, np.uint8), element.bits, count)
    if dtype.startswith("int"):  # sign extension
        half = 1 << (element.bits - 1)
        return ((values.astype(np.int8) ^ half) - half).astype(np.int8)
    return values


def unpack_bits(data: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """(count,) numbers of ``bits`` bits each: the lowest bit first, across the borders of bytes."""
    stream = np.unpackbits(data, bitorder="little")[: bits * count]
    if stream.size < bits * count:
        raise BundleError(f"{data.size} bytes cannot hold {count} numbers of {bits} bits")
    weights = (1 << np.arange(bits)).astype(np.uint8)
    values: NDArray[np.uint8] = (stream.reshape(count, bits) * weights).sum(1, dtype=np.uint8)
    return values
