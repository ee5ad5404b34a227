"""Times of evaluations in milliseconds: measured here in alternation, or read from the rows of a device."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from microforge.bundle.manifest import Role
from microforge.bundle.measurements import read_rows
from microforge.errors import SpecError
from microforge_export.recipes.int8_recipe import CandidateScheme, Host

#: Vector extensions that decide which int8 kernels an engine uses, as Linux names them.
_INT8_EXTENSIONS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip


#: (component, group, scheme) -> (milliseconds, milliseconds in fp32).
Times = Mapping[tuple[Role, str, CandidateScheme], tuple[float, float]]


def read_measured(path: Path) -> Times:
    """Read the times of a device from the ``candidates`` of ``mf-bench`` rows (``microforge.bundle.measurements``).

    Raises:
        DataError: if the file does not hold rows.
        SpecError: if a scheme is unknown, or no row has candidates.
    """
    candidates = [candidate for row in read_rows(path) for candidate in row.candidates]
    if not candidates:
        raise SpecError(
            f"{path} has no candidates; mf-export tune --measured needs rows with timed candidates"
        )
    schemes = TypeAdapter[CandidateScheme](CandidateScheme)
    times = {}
    for item in candidates:
        try:
            scheme = schemes.validate_python(item.scheme)
        except ValidationError as error:
            raise SpecError(f"{path}: scheme {item.scheme!r}: {error.errors()[0]['msg']}") from None
        times[item.component, item.group, scheme] = (item.seconds * 1e3, item.fp32_seconds * 1e3)
    return times


def interleaved(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Shortest time of each call over ``rounds``, called in alternation.

    A busy host only ever adds time, and alternation spreads that over all calls. One more round at the start is
    not counted: it fills caches and lets engines allocate.
    """
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, samples in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if number:
                samples.append((time.perf_counter() - start) * 1e3)
    return [min(samples) for samples in times]


def this_host(threads: int, cpuinfo: Path = Path("/proc/cpuinfo")) -> Host:
    """The machine that this process runs on; without Linux's ``cpuinfo`` only its architecture is known."""
    try:
        text = cpuinfo.read_text("utf-8")
    except OSError:
        text = ""
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    flags = set(lines[0].partition(":")[2].split()) if lines else set()
    instructions = tuple(name for name in _INT8_EXTENSIONS if name in flags)
    return Host(machine=platform.machine() or "unknown", instructions=instructions, threads=threads)
