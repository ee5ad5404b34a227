"""Threads that an engine may use: never more than the cores that the process may run on. No torch."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path

from microforge.io.console import say_warning


def usable_cores() -> int:
    """Cores that the process may use: those that it may run on (``taskset``), at most its share of time (a container)."""
    cores = visible_cores()
    quota = cpu_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def visible_cores() -> int:
    """Cores that the process may run on, which is what engines count by themselves."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(membership: Path, root: Path) -> float | None:
    """Processor time per time that Linux's control groups allow the process; None without a limit.

    Args:
        membership: the process's list of groups, ``/proc/self/cgroup``.
        root: where the groups are mounted. Limits of version 2 (``cpu.max``) and 1 (``cpu.cfs_quota_us``) are read, of
            the process's group and of all groups around it.
    """
    quotas = [
        quota
        for folder, version in _groups(membership, root)
        if (quota := _quota_2(folder) if version == 2 else _quota_1(folder)) is not None
    ]
    return min(quotas, default=None)


def _groups(membership: Path, root: Path) -> Iterator[tuple[Path, int]]:
    """(folder, version) of every group that the process is in, innermost first."""
    for line in _text(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        base, version = (root / "cpu", 1) if controllers else (root, 2)
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        for length in range(len(parts), -1, -1):  # in a container the inner names may not be mounted
            yield base.joinpath(*parts[:length]), version


def _quota_2(folder: Path) -> float | None:
    numbers = _text(folder / "cpu.max").split()
    return int(numbers[0]) / int(numbers[1]) if len(numbers) == 2 and all(map(_positive, numbers)) else None


def _quota_1(folder: Path) -> float | None:
    numbers = [_text(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    return int(numbers[0]) / int(numbers[1]) if all(map(_positive, numbers)) else None


def _positive(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16 and int(text) > 0


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""


def usable_threads(threads: int | None) -> int | None:
    """``threads``, at most ``usable_cores()``. Warns once when there are fewer cores.

    Engines' threads wait actively for one another: more of them than cores make everything on the machine slow. None
    stays None, an engine's own choice, unless the process's share of time is less than the cores that an engine sees.
    """
    cores = usable_cores()
    if threads is None:
        return cores if cores < visible_cores() else None
    if threads <= cores:
        return threads
    _warn(threads, cores)
    return cores


@functools.cache
def _warn(threads: int, cores: int) -> None:
    say_warning(
        f"{threads} threads were asked for, but the process may use {cores} cores; {cores} threads are used"
    )
