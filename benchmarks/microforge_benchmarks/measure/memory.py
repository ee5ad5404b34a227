"""Memory of a process as the Linux kernel counts it, and hard limits that the kernel enforces.

RLIMIT_AS is no use: it counts address space, of which engines reserve much more than they touch. A cgroup v2
scope limits what is really held (``MemoryMax``); where the system gives none, RLIMIT_DATA limits private
writable memory, touched or not, so it is the stricter of the two.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

from microforge.bundle.measurements import Mechanism
from microforge.errors import SpecError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
#: Under RLIMIT_DATA less says nothing about a model: Python, numpy and an engine alone may take as much.
LEAST_LIMIT = 64 * 2**20


def parse_bytes(text: str) -> int:
    """Bytes of "3GB", "512MiB" or a plain number.

    Raises:
        SpecError: for anything else, or less than ``LEAST_LIMIT``.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B)?\s*", text.upper())
    if found is None or (found[2] or "") not in _UNITS:
        raise SpecError(f"memory is {text!r}; write it as 3GB, 512MB or 512MiB")
    count = int(float(found[1]) * _UNITS[found[2] or ""])
    if count < LEAST_LIMIT:
        raise SpecError(f"memory is {count} bytes; at least {LEAST_LIMIT // 2**20} MiB are needed")
    return count


@functools.cache
def mechanism() -> Mechanism:
    """What can enforce a limit here: a scope where the user's service manager grants one, else RLIMIT_DATA."""
    if shutil.which("systemd-run") and Path("/sys/fs/cgroup/cgroup.controllers").is_file():
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run([*scope_words(LEAST_LIMIT), "true"], capture_output=True, timeout=10)
            if done.returncode == 0:
                return "cgroup-v2-scope"
    return "rlimit-data"


def scope_words(limit: int) -> list[str]:
    """Command words that run what follows in a scope of its own with ``limit`` bytes and no swap."""
    properties = ["-p", f"MemoryMax={limit}", "-p", "MemorySwapMax=0"]
    return ["systemd-run", "--user", "--scope", "--quiet", "--collect", *properties, "--"]


def apply_data_limit(limit: int) -> None:
    """Give this process ``limit`` bytes of private writable memory, for good.

    A thread's stack counts in full, touched or not, so Python's threads get small ones. numpy is loaded before: its BLAS asks
    for its buffer, whose size depends on the processor, without end where it gets none. What it has counts all the same.
    """
    import resource  # not there on Windows, where no limit can be set

    import numpy  # noqa: F401

    threading.stack_size(2**18)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def resident_bytes() -> tuple[int | None, int | None]:
    """(RSS, PSS) of this process now; None where the kernel does not say."""
    return _kilobytes(Path("/proc/self/smaps_rollup"), "Rss", "Pss")


def peak_resident_bytes() -> int | None:
    """The largest RSS so far, by the kernel's own mark."""
    return _kilobytes(Path("/proc/self/status"), "VmHWM", "VmHWM")[0]


def forget_peak() -> bool:
    """Let ``peak_resident_bytes`` start again from now; False where the kernel has no such thing (before 4.0)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return True


def _kilobytes(path: Path, *names: str) -> tuple[int | None, int | None]:
    try:
        text = path.read_text("ascii", "replace")
    except OSError:
        return None, None
    found = [re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE) for name in names]
    first, second = (None if match is None else int(match[1]) * 1024 for match in found)
    return first, second


class Sampler:
    """Reads this process's memory all the time while its block runs; ``samples`` is (s, RSS, PSS)."""

    def __init__(self, every: float = 0.01) -> None:
        self._every, self._stop = every, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.samples: list[tuple[float, int, int]] = []

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        rss, pss = resident_bytes()
        if rss is not None and pss is not None:
            self.samples.append((time.perf_counter() - self._start, rss, pss))
