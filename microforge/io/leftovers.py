"""What killed processes left beside an output: recognised by locks that ended with them, and removed. No torch.

A work folder ``.NAME.xxxxxxxx`` holds a locked file ``lock`` with the output's name; a partial file
``.NAME.xxxxxxxx.mf-partial`` is locked itself. The system drops a lock when its process ends, however it ends, so
nothing of a process that still works is ever taken for a leftover.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

#: Ending of partial files.
PARTIAL = ".mf-partial"
_LOCK = "lock"
#: Seconds between the creation of a partial file and its lock, at the very most.
_GRACE_SECONDS = 60.0
_RANDOM = r"[a-z0-9_]{8}"


def lock_file(descriptor: int) -> None:
    """Mark an open partial file as one that a living process writes."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks: its leftovers stay
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_folder(work: Path, name: str) -> int:
    """Mark the work folder of the output ``name`` as one in use; returns the descriptor to close at the end."""
    unlocked = work / f"{_LOCK}.new"  # renamed when it is locked: never seen without its lock
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, os.fsencode(name))
    lock_file(descriptor)
    os.replace(unlocked, work / _LOCK)
    return descriptor


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` left beside it.

    Where one was killed between taking the old output away and putting the new one in its place, the old one is put
    back. Never raises: what cannot be removed stays.
    """
    if fcntl is None:
        return
    pattern = re.compile(rf"{re.escape(f'.{path.name[:64]}.')}{_RANDOM}({re.escape(PARTIAL)})?")
    with contextlib.suppress(OSError):
        for entry in list(path.absolute().parent.iterdir()):
            match = pattern.fullmatch(entry.name)
            if match is None or entry.is_symlink():
                continue
            with contextlib.suppress(OSError):
                if match[1] is None:
                    _remove_folder(entry, path)
                elif time.time() - entry.stat().st_mtime > _GRACE_SECONDS and _is_abandoned(entry):
                    entry.unlink()


def _remove_folder(work: Path, path: Path) -> None:
    lock, old = work / _LOCK, work / "old"
    if not lock.is_file() or lock.read_bytes() != os.fsencode(path.name) or not _is_abandoned(lock):
        return
    if old.exists() and not os.path.lexists(path):
        os.replace(old, path)
    shutil.rmtree(work, ignore_errors=True)


def _is_abandoned(file: Path) -> bool:
    """Whether no process holds the lock of ``file``."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
