"""A bundle as one file, ``NAME.mfb.zip``: a zip archive of stored (uncompressed) members, read where it lies.

Inference engines open files by name, and an ONNX graph looks for its weights beside itself. So a member that an
engine needs is copied once, when it is first asked for, into a private temporary folder; all others stay where they
are. The folder goes with the last reference to the archive; what a killed process left behind goes when the next
archive is opened. No torch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from microforge.bundle.archive_directory import Member, read_directory
from microforge.errors import BundleError

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves behind stays
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".mfb.zip"
_BLOCK = 1 << 20
_PREFIX, _LOCK = "microforge-bundle-", ".lock"


class Archive:
    """An opened archive; the file stays open, so replacing it does no harm. Usable from several threads."""

    def __init__(self, path: Path) -> None:
        """Read and check the list of members, and no content.

        Raises:
            BundleError: when ``path`` is no zip archive, or one that must be refused (see ``archive_directory``).
        """
        self.path = path
        with _reading(path):
            self._stream: BinaryIO = path.open("rb")
            weakref.finalize(self, self._stream.close)
            self.members = read_directory(path, self._stream)
        self._lock = threading.Lock()
        self._folder: Path | None = None

    def read(self, name: str, most: int | None = None) -> bytes:
        """Content of the member ``name``, of a larger one than ``most`` bytes the first ``most``.

        Raises:
            BundleError: when there is none, or it cannot be read.
        """
        member = self._member(name)
        with self._lock, _reading(self.path):
            self._stream.seek(member.start)
            return self._stream.read(member.bytes if most is None else min(member.bytes, most))

    def extract(self, name: str) -> Path:
        """Path of a private copy of the member ``name``, at its own place relative to other members.

        Raises:
            BundleError: when there is no such member, or no room for the copy.
        """
        member = self._member(name)
        with self._lock:
            path = self._private_folder() / "files" / name
            if not path.exists():
                self._extract(member, path)
            return path

    def _extract(self, member: Member, path: Path) -> None:
        partial = path.with_name(f".{member.start}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._copy(member, partial)
            os.replace(partial, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise BundleError(
                f"{self.path}: {member.name} ({member.bytes} bytes) cannot be copied to {path.parent}: "
                f"{error.strerror or error}; set TMPDIR to a folder with room"
            ) from None

    def _member(self, name: str) -> Member:
        if name not in self.members:
            raise BundleError(f"{self.path} lacks its file {name}; copy or pack the bundle again")
        return self.members[name]

    def _private_folder(self) -> Path:
        if self._folder is None:
            try:
                _remove_abandoned()
                self._folder, lock = _locked_folder()
            except OSError as error:
                raise BundleError(
                    f"{self.path} needs a temporary folder: {error.strerror or error}; set TMPDIR"
                ) from None
            weakref.finalize(self, _remove, self._folder, lock, os.getpid())
        return self._folder

    def copy(self, name: str, path: Path) -> None:
        """Write the content of the member ``name`` to ``path``.

        Raises:
            BundleError: when there is none. OSError: when it cannot be written.
        """
        member = self._member(name)
        with self._lock:
            self._copy(member, path)

    def _copy(self, member: Member, path: Path) -> None:
        with path.open("wb") as copy:
            self._stream.seek(member.start)
            left = member.bytes
            while left and (block := self._stream.read(min(left, _BLOCK))):
                copy.write(block)
                left -= len(block)


def is_archive(path: Path) -> bool:
    """Whether ``path`` is to be opened as an archive: any regular file is."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None


def _locked_folder() -> tuple[Path, int]:
    """A new private folder, and the descriptor of the lock that says that its process lives."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    new = folder / f"{_LOCK}.new"
    lock = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
    if fcntl is not None:
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.replace(new, folder / _LOCK)  # renamed when locked: no other process sees it unlocked
    return folder, lock


def _remove_abandoned() -> None:
    """Remove the folders of processes that were killed: their locks are free."""
    if fcntl is None:
        return
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
            finally:
                os.close(lock)


def _remove(folder: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # a forked child drops its references, too
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.close(lock)
