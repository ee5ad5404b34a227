"""Atomic outputs: a file or folder appears whole or not at all, and replaces nothing without ``force``. No torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from microforge.errors import MicroForgeError, OutputError, OutputExistsError
from microforge.io.disk_failure import disk_failure
from microforge.io.leftovers import open_partial, remove_leftovers, work_folder
from microforge.io.swap import swap_names


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
    path = _file_to_write(path, force)
    partial: Path | None = None
    try:
        descriptor, partial = open_partial(path)
        with os.fdopen(descriptor, "w+b") as stream:
            yield stream
        os.replace(partial, path)
    except OSError as error:
        raise _refused(path, error) from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: str | Path, force: bool = False) -> Iterator[Path]:
    """The name of an empty file, for a library that writes by name; it becomes ``path`` at the end of the block.

    Raises:
        OutputExistsError: as ``atomic_bytes``.
        OutputError: as ``atomic_bytes``; also when a library says that the disk is full.
    """
    path = _file_to_write(path, force)
    with reporting_writes(path), work_folder(path) as work:
        temporary = work / path.name
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask wants it; some libraries choose another
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)


def _file_to_write(path: str | Path, force: bool) -> Path:
    """``path``, after everything that can be refused; its folder exists afterwards."""
    path = Path(path)
    check_output(path, force)
    if os.path.isdir(path):
        raise OutputError(f"cannot write {path}: it is a folder")
    _make_parent(path)
    return path


def _make_parent(path: Path) -> None:
    """Make the folder of ``path``, and remove there what killed processes left of ``path``."""
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, error) from None
    remove_leftovers(path)


@contextlib.contextmanager
def atomic_folder(path: str | Path, force: bool = False, *, marker: str) -> Iterator[Path]:
    """Open an empty folder that becomes ``path`` when the block ends without an error.

    An old folder stays until the new one is complete, and then both change places in one step where the system can do
    that. It is replaced only with ``force``, and only if it is empty or holds the file ``marker``, so that a mistyped
    path never removes an unrelated folder.

    Raises:
        OutputExistsError: as ``check_output``.
        OutputError: as ``check_output``; also when ``path`` must not be replaced, or the disk is full.
    """
    path = Path(path)
    check_output(path, force)
    _check_replaceable(path, marker)
    _make_parent(path)
    check_output(path, force)  # once more: an interrupted replacement may just have been undone
    with reporting_writes(path), work_folder(path) as work:
        new, old = work / "new", work / "old"
        new.mkdir()
        yield new
        check_output(path, force)
        _check_replaceable(path, marker)
        try:
            if path.exists() and not swap_names(new, path):
                os.replace(path, old)
            if new.exists() and not path.exists():
                os.replace(new, path)
        except OSError as error:
            raise _refused(path, error) from None
        finally:
            if old.exists() and not os.path.lexists(path):
                os.replace(old, path)


@contextlib.contextmanager
def reporting_writes(path: Path) -> Iterator[None]:
    """Raise errors of the block that mean that the disk is full or read-only, of whatever kind, as ``OutputError``."""
    try:
        yield
    except MicroForgeError:
        raise
    except Exception as error:
        reason = disk_failure(error)
        if reason is None:
            raise
        raise OutputError(f"cannot write {path}: {reason}") from None


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {disk_failure(error) or error.strerror or error}")


def _check_replaceable(path: Path, marker: str) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise OutputError(f"cannot replace {path}: it is not a folder")
    try:
        if any(path.iterdir()) and not (path / marker).is_file():
            raise OutputError(
                f"cannot replace {path}: it holds other files and no {marker}; choose another name"
            )
    except OSError as error:
        raise _refused(path, error) from None
