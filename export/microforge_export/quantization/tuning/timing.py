"""How long evaluations take: here, interleaved, or as a device reported them. Milliseconds throughout."""

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

#: Vector extensions that decide which int8 kernels an engine takes, as Linux names them.
_INT8 = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


#: (component, group, scheme) -> (milliseconds, fp32 milliseconds).
Times = Mapping[tuple[Role, str, CandidateScheme], tuple[float, float]]


def read_measured(path: Path) -> Times:
    """Times of a device, from the ``candidates`` of the rows of ``mf-bench`` (``microforge.bundle.measurements``).

    Raises:
        DataError: when the file is not one of rows.
        SpecError: for a scheme that no recipe knows, or rows without a candidate.
    """
    found = [candidate for row in read_rows(path) for candidate in row.candidates]
    if not found:
        raise SpecError(f"{path} has no candidates; `tune --measured` needs rows with timed candidates")
    schemes = TypeAdapter[CandidateScheme](CandidateScheme)
    times = {}
    for item in found:
        try:
            scheme = schemes.validate_python(item.scheme)
        except ValidationError as error:
            raise SpecError(f"{path}: scheme {item.scheme!r}: {error.errors()[0]['msg']}") from None
        times[item.component, item.group, scheme] = (item.seconds * 1e3, item.fp32_seconds * 1e3)
    return times


def interleaved(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Least time of each call over ``rounds`` in turn: a busy host only ever adds time, and disturbs all alike.

    One round before is not counted: it loads caches and lets engines allocate.
    """
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if number:
                found.append((time.perf_counter() - start) * 1e3)
    return [min(found) for found in times]


def this_host(threads: int, cpuinfo: Path = Path("/proc/cpuinfo")) -> Host:
    """The machine that times are taken on; without Linux's list of extensions only its architecture."""
    try:
        text = cpuinfo.read_text("utf-8")
    except OSError:
        text = ""
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    flags = set(lines[0].partition(":")[2].split()) if lines else set()
    found = tuple(name for name in _INT8 if name in flags)
    return Host(machine=platform.machine() or "unknown", instructions=found, threads=threads)
