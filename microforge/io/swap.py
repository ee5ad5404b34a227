"""Two names exchanged in one step, where the system can: there is no moment at which one of them is missing. No torch."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

_AT_FDCWD = -100  # fcntl.h of Linux: paths are relative to the working directory
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS


def swap_names(first: Path, second: Path) -> bool:
    """Exchange two existing files or folders of one file system; False where the system cannot.

    Linux has the call renameat2 (glibc 2.28), macOS renamex_np; some file systems refuse both.
    """
    call = _system_call()
    return call is not None and call(os.fsencode(first), os.fsencode(second)) == 0


@functools.cache
def _system_call() -> Callable[[bytes, bytes], int] | None:
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            swap = library.renamex_np
            swap.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint]
            return lambda first, second: int(swap(first, second, _RENAME_SWAP))
        exchange = library.renameat2
        exchange.argtypes = [
            ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
        ]  # fmt: skip
        return lambda first, second: int(exchange(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE))
    except (AttributeError, OSError, TypeError):  # another C library; Windows takes no None
        return None
