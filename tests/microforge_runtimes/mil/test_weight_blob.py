"""Weight blobs: what is packed comes back, what coremltools writes is read, and damage is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microforge.errors import BundleError
from microforge_runtimes.mil.weight_blob import ELEMENTS, BlobFile, elements, unpack_bits


def _pack(values: list[int], bits: int) -> bytes:
    """The packing in words: number i takes the bits from i * bits, lowest bit first."""
    stream = sum((value % (1 << bits)) << (index * bits) for index, value in enumerate(values))
    return stream.to_bytes(-(-len(values) * bits // 8), "little")


@given(st.sampled_from([1, 2, 3, 4, 6, 8]).flatmap(lambda b: st.tuples(st.just(b), st.lists(st.integers(0, 2**b - 1), min_size=1, max_size=40))))  # fmt: skip
def test_packed_numbers_come_back(case: tuple[int, list[int]]) -> None:
    bits, values = case
    data = np.frombuffer(_pack(values, bits), np.uint8)
    assert unpack_bits(data, bits, len(values)).tolist() == values


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=20))
def test_int4_keeps_its_sign(values: list[int]) -> None:
    assert elements(_pack(values, 4), "int4", len(values)).tolist() == values


def test_too_few_bytes_are_refused() -> None:
    with pytest.raises(BundleError, match="cannot hold"):
        unpack_bits(np.zeros(2, np.uint8), 6, 3)


def _blob(path: Path, data: bytes, stored: int, *, version: int = 2, sentinel: int = 0xDEADBEEF) -> Path:
    header = struct.pack("<II", 1, version).ljust(64, b"\0")
    path.write_bytes(
        header + struct.pack("<IIQQQ", sentinel, stored, len(data), 128, 0).ljust(64, b"\0") + data
    )
    return path


HALVES = np.arange(4, dtype="<f2").tobytes()


def test_a_blob_is_read_by_the_offset_of_its_record(tmp_path: Path) -> None:
    values = BlobFile(_blob(tmp_path / "weight.bin", HALVES, 1)).read(64, "fp16", 4)
    assert values.dtype == np.float16 and values.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "offset", "dtype", "count", "word"),
    [
        ({}, 64, "fp32", 4, "is fp16, the program says fp32"),
        ({}, 64, "fp16", 5, "has 8 bytes"),
        ({}, 0, "fp16", 4, "no record"),
        ({}, 72, "fp16", 4, "no record"),
        ({}, 128, "fp16", 4, "ends at byte"),
        ({"sentinel": 0xDEADBEEE}, 64, "fp16", 4, "no record"),
        ({"version": 1}, 64, "fp16", 4, "version 1"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(
    tmp_path: Path, options: dict[str, int], offset: int, dtype: str, count: int, word: str
) -> None:
    path = _blob(tmp_path / "weight.bin", HALVES, 1, **options)
    with pytest.raises(BundleError, match=word):
        BlobFile(path).read(offset, dtype, count)


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = _blob(tmp_path / "weight.bin", HALVES, 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match="ends at byte 135"):
        BlobFile(path).read(64, "fp16", 4)


@pytest.mark.parametrize("data", [None, b""])
def test_a_missing_or_empty_file_is_refused(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "weight.bin").write_bytes(data)
    with pytest.raises(BundleError, match="cannot be read"):
        BlobFile(tmp_path / "weight.bin")


@pytest.mark.parametrize("dtype", sorted(set(ELEMENTS) - {"bool", "fp64", "int64", "uint64"}))
def test_every_type_that_coremltools_writes_is_read(tmp_path: Path, dtype: str) -> None:
    storage = pytest.importorskip("coremltools.libmilstoragepython")
    kind = "float" if dtype == "fp32" else dtype
    values = np.array([0, 1, 1, 0, 1], ELEMENTS[dtype].dtype)
    values = -values if dtype == "int4" else values
    writer = storage._BlobStorageWriter(str(tmp_path / "weight.bin"))
    offset = getattr(writer, f"write_{kind}_data")(values.view(np.uint16) if dtype == "fp16" else values)
    del writer  # closes the file
    assert BlobFile(tmp_path / "weight.bin").read(offset, dtype, 5).tolist() == values.tolist()
