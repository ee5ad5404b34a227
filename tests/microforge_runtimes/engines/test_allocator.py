"""Freed memory leaves the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from microforge_runtimes.engines.allocator import return_freed_memory

_SCRIPT = """
from pathlib import Path
from microforge_runtimes.engines.allocator import return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [b"x" * 100_000 for _ in range(1000)]  # from the heap: smaller than what is mapped alone
pin = b"x" * 100_000
full = resident()
del blocks
return_freed_memory()
print(full - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_blocks_below_one_that_is_held_go_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50_000_000


def test_it_may_be_asked_at_any_time() -> None:
    return_freed_memory()
    return_freed_memory()
