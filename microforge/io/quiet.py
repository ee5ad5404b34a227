"""Silences third-party warnings."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator


class _Silence:
    """Python's warning filters of the whole process, changed by the first of several threads and restored by the last.

    ``warnings.catch_warnings`` alone is not for threads: two that overlap can leave the filters of one of them for good.
    """

    def __init__(self, module: str) -> None:
        self._module, self._lock, self._users = module, threading.Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=self._module)
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._filters.__exit__(None, None, None)


_PILLOW = _Silence("PIL")
_STDERR = threading.RLock()


def quiet_pillow() -> contextlib.AbstractContextManager[None]:
    """Silence the warnings of Pillow's decoders inside the block, in all threads."""
    return _PILLOW


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Silence Python warnings, and all but errors of the named ``loggers``, inside the block; exceptions pass."""
    silenced = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in silenced]
    try:
        for logger in silenced:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(silenced, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silence what native code writes to the process's standard error inside the block, of all threads; keep it short."""
    with _STDERR:  # of two threads the second would keep, and restore, the first one's silence
        try:
            kept = os.dup(2)
        except OSError:  # closed already
            yield
            return
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
