"""Memory of a process as counted by the Linux kernel, and hard limits that the kernel enforces.

RLIMIT_AS is unsuitable: it counts address space, of which engines reserve much more than they use. A cgroup v2 scope
limits resident memory (``MemoryMax``). Where the system grants no scope, RLIMIT_DATA limits private writable memory,
used or not, and is therefore stricter.
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
#: Smallest limit in bytes: Python, numpy and an engine alone may need as much under RLIMIT_DATA.
MIN_LIMIT = 64 * 2**20
#: Largest limit in bytes: the kernel's own numbers end at 2**63.
MAX_LIMIT = 2**62


def parse_bytes(text: str) -> int:
    """Number of bytes of "3GB", "512MiB" or a plain number.

    Raises:
        SpecError: when ``text`` has another form, or is below ``MIN_LIMIT`` or above ``MAX_LIMIT``.
    """
    match = re.fullmatch(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([KMG]?I?B)?\s*", text.upper())
    if match is None or (match[2] or "") not in _UNITS:
        shown = repr(text) if len(text) < 60 else f"{text[:60]!r}..."
        raise SpecError(f"memory is {shown}; write it as 3GB, 512MB or 512MiB")
    count = int(float(match[1]) * _UNITS[match[2] or ""])
    if count < MIN_LIMIT:
        raise SpecError(f"memory is {count} bytes; at least {MIN_LIMIT // 2**20} MiB are needed")
    if count > MAX_LIMIT:
        raise SpecError(f"memory is {count} bytes; at most {MAX_LIMIT // 2**30} GiB are possible")
    return count


@functools.cache
def limit_mechanism() -> Mechanism:
    """The mechanism that enforces limits here: a scope if the user's service manager grants one, else RLIMIT_DATA."""
    if shutil.which("systemd-run") and Path("/sys/fs/cgroup/cgroup.controllers").is_file():
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run([*scope_command(MIN_LIMIT), "true"], capture_output=True, timeout=10)
            if done.returncode == 0:
                return "cgroup-v2-scope"
    return "rlimit-data"


def scope_command(limit: int) -> list[str]:
    """Prefix of a command that runs it in a new scope with ``limit`` bytes of memory and no swap."""
    properties = ["-p", f"MemoryMax={limit}", "-p", "MemorySwapMax=0"]
    return ["systemd-run", "--user", "--scope", "--quiet", "--collect", *properties, "--"]


def apply_data_limit(limit: int) -> None:
    """Limit the private writable memory of this process to ``limit`` bytes, permanently.

    Python's threads get small stacks, because a stack counts in full. numpy is imported first, because its BLAS retries
    for ever when it cannot allocate its buffer; the buffer counts towards the limit all the same.
    """
    import resource  # missing on Windows, where no limit can be set

    import numpy  # noqa: F401

    threading.stack_size(2**18)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def resident_bytes() -> tuple[int | None, int | None]:
    """(RSS, PSS) of this process now; None where the kernel does not report them."""
    return _kilobytes(Path("/proc/self/smaps_rollup"), "Rss", "Pss")


def peak_resident_bytes() -> int | None:
    """Peak RSS of this process, recorded by the kernel."""
    return _kilobytes(Path("/proc/self/status"), "VmHWM", "VmHWM")[0]


def reset_peak() -> bool:
    """Reset the peak of ``peak_resident_bytes``; False where the kernel cannot (before Linux 4.0)."""
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
    matches = [re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE) for name in names]
    first, second = (None if match is None else int(match[1]) * 1024 for match in matches)
    return first, second


class MemorySampler:
    """Samples this process's memory periodically inside a ``with`` block; ``samples`` holds (seconds, RSS, PSS)."""

    def __init__(self, every: float = 0.01) -> None:
        self._every, self._stop = every, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[tuple[float, int, int]] = []

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        rss, pss = resident_bytes()
        if rss is not None and pss is not None:
            self.samples.append((time.perf_counter() - self._start, rss, pss))
