"""Threads that an engine may use: never more than the cores that the process may run on. No torch."""

from __future__ import annotations

import functools
import os

from microforge.io.console import say_warning


def usable_cores() -> int:
    """Cores that the process may run on, which a container or ``taskset`` may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_threads(threads: int | None) -> int | None:
    """``threads``, at most ``usable_cores()``; None stays None. Warns once when there are fewer cores.

    Engines' threads wait actively for one another: more of them than cores make everything on the machine slow.
    """
    cores = usable_cores()
    if threads is None or threads <= cores:
        return threads
    _warn(threads, cores)
    return cores


@functools.cache
def _warn(threads: int, cores: int) -> None:
    say_warning(
        f"{threads} threads were asked for, but the process may use {cores} cores; {cores} threads are used"
    )
