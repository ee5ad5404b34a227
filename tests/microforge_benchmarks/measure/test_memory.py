"""Memory as the kernel counts it, and limits that it enforces."""

from __future__ import annotations

import subprocess
import sys

import pytest

from microforge.errors import SpecError
from microforge_benchmarks.measure.memory import parse_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize(
    ("text", "count"),
    [("3GB", 3_000_000_000), ("512 MiB", 2**29), ("1.5gb", 1_500_000_000), ("80000000", 80_000_000)],
)
def test_sizes_are_read_with_their_units(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-3GB", "3 gigabytes", "nan", "3XB", "1MB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="memory is"):
        parse_bytes(text)


def test_the_sampler_sees_a_block_that_is_freed_again() -> None:
    # In a new process: in one that has freed much memory before, the allocator may keep what is freed.
    code = (
        "from microforge_benchmarks.measure.memory import MemorySampler, peak_resident_bytes, resident_bytes\n"
        "with MemorySampler(every=0.001) as sampler:\n"
        "    held = bytearray(b'x') * (64 * 2**20)\n"
        "    before = resident_bytes()[0]\n"
        "    del held\n"
        "print(before, sampler.samples[-1][1], peak_resident_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, peak = map(int, done.stdout.split())
    assert before - after > 32 * 2**20 and peak >= before - 2**20


def test_the_data_limit_stops_an_allocation_but_not_a_reservation_within_it() -> None:
    code = (
        "from microforge_benchmarks.measure.memory import apply_data_limit\n"
        "apply_data_limit(256 * 2**20)\n"
        "a = bytearray(64 * 2**20)\n"
        "print('small', flush=True)\n"
        "b = bytearray(512 * 2**20)\n"
        "print('large')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "small\n" and "MemoryError" in done.stderr and done.returncode != 0


@pytest.mark.parametrize(
    "text",
    [
        "9" * 400 + "GB",
        "9" * 21,
        "4611686018427387904.5GB",
        "٣GB",
        "1e9",
        "-3GB",
        "3 GB GB",
        "",
        "x" * 10_000,
    ],
)
def test_what_is_no_size_of_memory_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(SpecError, match="memory is ") as caught:
        parse_bytes(text)
    assert len(str(caught.value)) < 200
