"""What a reader of a stranger's bytes may do: accept them, or refuse them in one line; nothing else.

``judge`` runs one reader on one input and raises ``Misbehaviour`` for anything else: another exception, a message that is no
single line, a file outside the reader's folder that was opened, written or removed, a started process, a network connection,
compiled or unpickled code, memory out of proportion to the input, and an input that takes too long.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

#: Resident memory in bytes that any input may add, and further memory for one byte of input.
BASE_MEMORY, MEMORY_PER_BYTE = 192 << 20, 400
#: Seconds of processor time for one input.
SECONDS = 5.0
#: Characters of a message.
MAX_MESSAGE = 2000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Events (https://docs.python.org/3/library/audit_events.html) that no reader of data causes, by prefix.
_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "subprocess.", "socket.", "urllib.",
    "pickle.", "marshal.", "ctypes.", "code.", "exec", "os.symlink", "os.link", "os.kill",
)  # fmt: skip
#: Events that name a path as their first argument.
_PATHS = (
    "open", "os.remove", "os.mkdir", "os.rename", "os.rmdir", "os.truncate", "os.listdir", "os.scandir", "os.chmod", "os.chown",
    "shutil.rmtree", "shutil.copyfile", "shutil.move", "shutil.copytree",
)  # fmt: skip


class Misbehaviour(AssertionError):
    """A reader did what no reader of a stranger's bytes may do."""


@dataclass(frozen=True)
class Reader:
    """A reader under attack.

    Attributes:
        name: of the target on the command line.
        seeds: valid inputs, which are changed.
        read: what is attacked; writes its input to a file in ``folder`` where it must.
        refusals: exceptions that say in one line why the input is not accepted.
        folder: the only place where files may be opened.
        words: tokens of the format, for the dictionary of a coverage-guided run.
    """

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    refusals: tuple[type[BaseException], ...]
    folder: Path
    words: tuple[bytes, ...] = ()


_active: Reader | None = None
_events: list[str] = []
_hooked = False


def judge(reader: Reader, data: bytes) -> bool:
    """Whether ``reader`` accepts ``data``.

    Raises:
        Misbehaviour: when it does anything but accept or refuse it in one line.
    """
    before, start = _peak_memory(), time.process_time()
    with _watched(reader):
        accepted = _accepted(reader, data)
    seconds, memory = time.process_time() - start, _peak_memory() - before
    if _events:
        raise Misbehaviour(f"{reader.name} caused {_events[0]}")
    if seconds > SECONDS:
        raise Misbehaviour(f"{reader.name} took {seconds:.1f} seconds for {len(data)} bytes")
    if memory > BASE_MEMORY + MEMORY_PER_BYTE * len(data):
        raise Misbehaviour(f"{reader.name} took {memory:,} bytes of memory for {len(data)} bytes")
    return accepted


def _accepted(reader: Reader, data: bytes) -> bool:
    try:
        reader.read(data)
    except reader.refusals as error:
        message = str(error)
        if not message or "\n" in message or len(message) > MAX_MESSAGE:
            raise Misbehaviour(f"{reader.name} refuses with no single line: {message[:2000]!r}") from error
        return False
    except Misbehaviour:
        raise
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise Misbehaviour(f"{reader.name} raised {type(error).__name__}: {str(error)[:500]}") from error
    return True


@contextmanager
def _watched(reader: Reader) -> Iterator[None]:
    global _active, _hooked
    if not _hooked:  # a hook cannot be removed, so there is one for the whole process
        sys.addaudithook(_audit)
        _hooked = True
    _events.clear()
    _active = reader
    writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no cache of a first import
    try:
        yield
    finally:
        _active, sys.dont_write_bytecode = None, writes_none


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _active is None:
        return
    if event in _PATHS:
        refused = not _allowed(_active.folder, event, arguments)
    else:
        refused = event.startswith(_FORBIDDEN) and not _called_by(
            "<frozen importlib._bootstrap>", typing.__file__
        )
    if refused:
        _events.append(f"{event} {arguments!r}"[:300])


def _called_by(*files: str) -> bool:
    """Whether code of one of ``files`` is running: importing unmarshals and executes modules, typing evaluates annotations."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename in files:
            return True
        frame = frame.f_back
    return False


def _allowed(folder: Path, event: str, arguments: tuple[Any, ...]) -> bool:
    path = _absolute(arguments[0], arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1)
    if path is None or isinstance(path, int) or _inside(folder, path):  # an open descriptor was opened before
        return event != "os.rename" or _inside(folder, arguments[1])
    if event == "open" and not os.path.dirname(path) and _called_by(shutil.__file__):
        return True  # relative to an open folder, whose own opening was judged
    writes = path != os.devnull and (event != "open" or bool(arguments[2] & _WRITING))
    # Python and its packages may read their own files: modules, data of codecs and time zones.
    return not writes and os.fspath(path if not isinstance(path, bytes) else os.fsdecode(path)).startswith(
        (
            sys.prefix,
            sys.base_prefix,
            *(entry for entry in sys.path if entry),
            "/proc/",
            "/sys/fs/cgroup",
            os.devnull,
        )
    )


def _absolute(path: Any, descriptor: Any) -> Any:
    """``path``, which may be relative to an open folder."""
    if isinstance(descriptor, int) and descriptor >= 0 and not isinstance(path, int):
        return os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), os.fsdecode(path))
    return path


def _inside(folder: Path, path: Any) -> bool:
    if isinstance(path, int):
        return True
    place = os.path.abspath(os.fsdecode(path))
    return place == str(folder) or place.startswith(f"{folder}{os.sep}")


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
