"""Atomic outputs: a file or folder appears whole or not at all, and replaces nothing without ``force``. No torch."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from microforge.errors import OutputError, OutputExistsError
from microforge.io.leftovers import PARTIAL, lock_file, lock_folder, remove_leftovers


def check_output(path: str | Path, force: bool = False) -> None:
    """Check before the work starts that ``path`` can be written at its end; writes nothing.

    Raises:
        OutputExistsError: when ``path`` exists and ``force`` is off.
        OutputError: when its folder cannot be made or written to.
    """
    path = Path(path)
    if _exists(path) and not force:
        raise OutputExistsError(
            f"{path} already exists; choose another name or pass --force (force=True in Python)"
        )
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not os.path.isdir(folder):
        raise OutputError(f"cannot write {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {folder}")


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # too long, or a null character
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"cannot write {str(path)[:80]!r}: {reason}") from None
    return True


def atomic_bytes(path: str | Path, data: bytes, force: bool = False) -> None:
    """Write a file whole or not at all; missing folders above it are made.

    Raises:
        OutputExistsError: as ``check_output``.
        OutputError: as ``check_output``; also when ``path`` is a folder or the disk fails.
    """
    with atomic_file(path, force) as stream:
        stream.write(data)


@contextlib.contextmanager
def atomic_file(path: str | Path, force: bool = False) -> Iterator[BinaryIO]:
    """Open a stream that becomes the file ``path`` when the block ends without an error.

    Raises:
        OutputExistsError: as ``atomic_bytes``.
        OutputError: as ``atomic_bytes``.
    """
    path = Path(path)
    check_output(path, force)
    if os.path.isdir(path):
        raise OutputError(f"cannot write {path}: it is a folder")
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", suffix=PARTIAL, dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "w+b") as stream:
            lock_file(handle)
            yield stream
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path, force: bool = False, *, marker: str) -> Iterator[Path]:
    """Open an empty folder that becomes ``path`` when the block ends without an error.

    An old folder stays until the new one is complete. It is replaced only with ``force``, and only if it is
    empty or holds the file ``marker``, so that a mistyped path never removes an unrelated folder.

    Raises:
        OutputExistsError: as ``check_output``.
        OutputError: as ``check_output``; also when ``path`` must not be replaced.
    """
    path = Path(path)
    check_output(path, force)
    _check_replaceable(path, marker)
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        check_output(path, force)  # once more: an interrupted replacement may just have been undone
        work = Path(tempfile.mkdtemp(prefix=f".{path.name[:64]}.", dir=path.absolute().parent))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    new, old = work / "new", work / "old"
    lock: int | None = None
    try:
        lock = lock_folder(work, path.name)
        new.mkdir()
        yield new
        check_output(path, force)
        _check_replaceable(path, marker)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(new, path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if old.exists() and not os.path.lexists(path):
            os.replace(old, path)
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _check_replaceable(path: Path, marker: str) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise OutputError(f"cannot replace {path}: it is not a folder")
    if any(path.iterdir()) and not (path / marker).is_file():
        raise OutputError(f"cannot replace {path}: it holds other files and no {marker}; choose another name")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
