"""Work in progress beside an output, which is removed by the next run when its process was killed. No torch.

A work folder ``.NAME.xxxxxxxx`` holds a locked file ``lock`` with the output's name; a partial file
``.NAME.xxxxxxxx.mf-partial`` is locked itself. The system drops a lock when its process ends, however it ends, so
nothing of a process that still works is ever taken for a leftover. Both are made locked: only an empty file
``.NAME.xxxxxxxx.mf-new``, or a folder that is empty but for its unfinished lock, can be without one. Those go when they
are older than a minute.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

#: Endings of partial files, before and after they are locked.
_NEW, PARTIAL = ".mf-new", ".mf-partial"
_LOCK, _UNLOCKED = "lock", "lock.new"
#: Seconds between the creation of a file or folder and its lock, at the very most.
_GRACE_SECONDS = 60.0
_WORK = re.compile(
    rf"\.(?P<stem>.+)\.[a-z0-9_]{{8}}(?P<ending>{re.escape(PARTIAL)}|{re.escape(_NEW)})?", re.DOTALL
)
#: Characters of the output's name that the names of its work begin with.
_STEM = 64


def open_partial(path: Path) -> tuple[int, Path]:
    """A new, locked partial file of the output ``path``: its descriptor, to read and write, and its name."""
    new = path.with_name(f".{path.name[:_STEM]}.{secrets.token_hex(4)}{_NEW}")
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    if fcntl is None:  # Windows renames no open file
        return descriptor, new
    try:
        _lock(descriptor)
        partial = new.with_suffix(PARTIAL)
        os.replace(new, partial)  # renamed when it is locked: never seen without its lock
    except BaseException:
        os.close(descriptor)
        new.unlink(missing_ok=True)
        raise
    return descriptor, partial


@contextlib.contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """A new, locked folder beside the output ``path``; it is removed at the end of the block."""
    work = Path(tempfile.mkdtemp(prefix=f".{path.name[:_STEM]}.", dir=path.absolute().parent))
    descriptor: int | None = None
    try:
        descriptor = os.open(work / _UNLOCKED, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, os.fsencode(path.name))
        _lock(descriptor)
        if fcntl is not None:  # elsewhere an open file cannot be renamed, and nothing looks for its lock
            os.replace(work / _UNLOCKED, work / _LOCK)
        yield work
    finally:
        _remove_work(work, descriptor)


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` left beside it.

    Where one was killed between taking the old output away and putting the new one in its place, the old one is put
    back. Never raises: what cannot be removed stays.
    """
    for entry, match in _leftovers_in(path.absolute().parent):
        if match["stem"] == path.name[:_STEM]:
            with contextlib.suppress(OSError):
                _remove_leftover(entry, match["ending"], path)


def remove_leftovers_in(folder: Path) -> None:
    """As ``remove_leftovers``, for every output that lies directly in ``folder``."""
    for entry, match in _leftovers_in(folder):
        with contextlib.suppress(OSError):
            lock = entry / _LOCK
            name = os.fsdecode(lock.read_bytes()) if lock.is_file() else match["stem"]
            if name[:_STEM] == match["stem"] and Path(name).name == name:
                _remove_leftover(entry, match["ending"], folder / name)


def _leftovers_in(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    """Entries of ``folder`` whose names are those of work in progress."""
    if fcntl is None:
        return []
    try:
        entries = list(folder.iterdir())
    except OSError:
        return []
    matches = ((entry, _WORK.fullmatch(entry.name)) for entry in entries if not entry.is_symlink())
    return [(entry, match) for entry, match in matches if match is not None]


def _remove_leftover(entry: Path, ending: str | None, path: Path) -> None:
    if ending == PARTIAL:
        if _is_abandoned(entry):
            entry.unlink()
    elif ending == _NEW:
        if _is_old(entry) and entry.stat().st_size == 0:
            entry.unlink()
    elif {item.name for item in entry.iterdir()} <= {_UNLOCKED}:
        if _is_old(entry):
            _remove_work(entry, None)
    elif (entry / _LOCK).read_bytes() == os.fsencode(path.name) and _is_abandoned(entry / _LOCK):
        old = entry / "old"
        if old.exists() and not os.path.lexists(path):
            os.replace(old, path)
        _remove_work(entry, None)


def _remove_work(work: Path, descriptor: int | None) -> None:
    """Remove a work folder, its lock last: what a kill leaves of it is still recognised."""
    with contextlib.suppress(OSError):
        for entry in list(work.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name not in (_LOCK, _UNLOCKED):
                entry.unlink()
    if descriptor is not None:
        os.close(descriptor)
    shutil.rmtree(work, ignore_errors=True)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks: its leftovers stay
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_old(entry: Path) -> bool:
    return time.time() - entry.stat().st_mtime > _GRACE_SECONDS


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
