"""Errors that mean that the system refuses to write: a full disk, a quota, a folder that is read-only. No torch."""

from __future__ import annotations

import errno
import os

_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_REFUSED = (*_FULL, errno.EROFS)


def disk_failure(error: BaseException) -> str | None:
    """Why the system refused to write, in its own words, or None when ``error`` is another one.

    Libraries written in C++ or Rust raise errors of their own kinds, which hold the system's words in their text.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno) if error.errno in _REFUSED else None
    text = str(error).lower()
    return next((words for words in map(os.strerror, _REFUSED) if words.lower() in text), None)
