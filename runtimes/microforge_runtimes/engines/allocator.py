"""Memory that a closed session gave back to the C library, given back to the system too.

glibc keeps freed blocks for later, among them a whole network's weights: without this, a stage that was freed
still counts while the next one loads (docs/devices.md).
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

_M_MMAP_THRESHOLD = -3  # malloc.h
#: Bytes from which a block has pages of its own, which go back when it is freed: glibc's own first choice. It
#: raises it after each such block that is freed, and then the second load needs more memory than the first.
_MAPPED_ALONE = 1 << 17


def return_freed_memory() -> None:
    """Ask the C library for it; nothing happens where it has no such call (Windows, macOS, musl)."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        trim: Callable[[int], int] = library.malloc_trim
        library.mallopt(_M_MMAP_THRESHOLD, _MAPPED_ALONE)
    except (AttributeError, OSError):  # another C library
        return None
    return trim
