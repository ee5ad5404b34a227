"""Files that a user names: opened only when they are regular files, and read as text the way editors save it. No torch."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from microforge.io.file_kind import HEAD_BYTES, file_kind, with_article

_KINDS = (
    (stat.S_ISDIR, "is a folder, not a file"),
    (stat.S_ISFIFO, "is a named pipe, not a file; save what it delivers to a file first"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)
_NON_BLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class UnusableFileError(OSError):
    """A path that is no regular file, or no text; its message begins with a verb ("is a folder, not a file")."""


def check_regular_file(path: Path) -> os.stat_result:
    """Status of the regular file ``path``; links are followed, nothing is opened.

    Raises:
        UnusableFileError: for a folder, a named pipe, a socket or a device, and for a name with a null character.
        OSError: when it does not exist or cannot be looked at.
    """
    try:
        status = os.stat(path)
    except ValueError:
        raise UnusableFileError("has a null character in its name") from None
    _check_mode(status.st_mode)
    return status


def read_user_file(path: Path, max_bytes: int | None = None) -> bytes:
    """Content of the regular file ``path``; reading never waits for another process.

    Args:
        max_bytes: larger files are refused before they are read; None for no limit.

    Raises:
        UnusableFileError: as ``check_regular_file``; also above ``max_bytes``.
        OSError: when it does not exist or cannot be read.
    """
    check_regular_file(path)
    descriptor = os.open(
        path, os.O_RDONLY | _NON_BLOCKING
    )  # a pipe that was put there meanwhile does not hang
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        _check_mode(status.st_mode)
        if max_bytes is not None and status.st_size > max_bytes:
            raise UnusableFileError(f"has {status.st_size} bytes; at most {max_bytes} are read")
        return stream.read() if max_bytes is None else stream.read(max_bytes)


def read_user_text(path: Path, max_bytes: int | None = 64 << 20) -> str:
    """Text of the regular UTF-8 file ``path``, with or without a byte order mark.

    Raises:
        UnusableFileError: as ``read_user_file``; also for bytes that are not UTF-8.
        OSError: when it does not exist or cannot be read.
    """
    return decode_text(read_user_file(path, max_bytes))


def decode_text(data: bytes) -> str:
    """Text of UTF-8 ``data``, with or without a byte order mark.

    Raises:
        UnusableFileError: when it is not UTF-8, or holds null characters as UTF-16 without a mark does.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        kind = file_kind(data[:HEAD_BYTES])
        reason = "is not UTF-8 text" if kind.startswith("unknown") else f"is {with_article(kind)}, not UTF-8"
        raise UnusableFileError(f"{reason}; save it as UTF-8") from None
    if "\0" in text:
        raise UnusableFileError("holds null characters (UTF-16 without a mark?); save it as UTF-8")
    return text


def _check_mode(mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    raise UnusableFileError(next((text for is_kind, text in _KINDS if is_kind(mode)), "is no regular file"))


def parse_toml(text: str) -> dict[str, Any]:
    """The values of TOML ``text``.

    Raises:
        ValueError: when it is not TOML, or its brackets are nested beyond any use; one line.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
