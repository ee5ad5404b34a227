"""One HTTP resource into one file: resumed by range, never longer than announced, checked by SHA-256."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from microforge.bundle.files import sha256_file
from microforge.errors import DownloadError, OutputError

_BLOCK = 1 << 18
#: Called with the number of bytes that arrived.
Arrived = Callable[[int], None]


@dataclass(frozen=True)
class Attempts:
    """How patient a download is: tries without any new byte, seconds to wait between them, seconds of silence."""

    count: int = 5
    pause: float = 1.0
    timeout: float = 30.0


def check_url(url: str) -> str:
    """``url`` when it can be downloaded from.

    Raises:
        DownloadError: when it is not an http or https address with a host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(f"cannot download {url!r}: needed is an address such as https://host/NAME.mfb")
    return url


def download_bytes(url: str, limit: int, attempts: Attempts) -> bytes:
    """The resource ``url``, whole.

    Raises:
        DownloadError: when it is longer than ``limit`` bytes, or does not arrive.
    """
    last = ""
    for attempt in range(attempts.count):
        _wait(attempt, attempts)
        try:
            with _open(url, 0, attempts.timeout) as response:
                data: bytes = response.read(limit + 1)
                expected = response.headers.get("Content-Length")
        except _PASSING as error:
            last = _reason(error, url)
            continue
        if len(data) > limit:
            raise DownloadError(f"{url} is longer than {limit} bytes")
        if expected is not None and expected.isdecimal() and len(data) < int(expected):
            last = f"it broke off after {len(data)} bytes"
            continue
        return data
    raise DownloadError(f"{url} did not arrive: {last}; try again later")


def download_file(
    url: str, path: Path, size: int, sha256: str, attempts: Attempts, arrived: Arrived = lambda count: None
) -> None:
    """Complete ``path`` from ``url``: bytes that are there already are not asked for again.

    Args:
        path: file to write, whose folder exists; what it holds is the beginning of an earlier try.
        size: bytes that the resource must have.
        sha256: that it must have, in lower-case hex.

    Raises:
        DownloadError: when it does not arrive, or what arrives is something else, even from a fresh start.
        OutputError: when the disk is full or refuses.
    """
    for fresh in (False, True):  # what lies there may be damaged, so a wrong hash gets one fresh start
        if fresh:
            path.unlink(missing_ok=True)
        resumed = path.exists() and path.stat().st_size > 0
        _complete(url, path, size, attempts, arrived)
        if sha256_file(path) == sha256:
            return
        if not resumed:
            break
    path.unlink(missing_ok=True)
    raise DownloadError(f"{url} has another SHA-256 than the manifest says; it is damaged or was replaced")


def _complete(url: str, path: Path, size: int, attempts: Attempts, arrived: Arrived) -> None:
    failures, last = 0, ""
    while True:
        start = path.stat().st_size if path.exists() else 0
        if start > size:
            path.unlink()
            start = 0
        if start == size and path.exists():
            return
        if failures >= attempts.count:
            raise DownloadError(
                f"{url} did not arrive ({start} of {size} bytes): {last}; run it again to go on"
            )
        _wait(failures, attempts)
        try:
            with _open(url, start, attempts.timeout) as response:
                _append(response, path, start, size, arrived)
            last = "the server ended it early"
        except _PASSING as error:
            last = _reason(error, url)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
        progressed = path.exists() and path.stat().st_size > start
        failures = 0 if progressed else failures + 1


#: What may be over when it is tried again. HTTPError, TimeoutError and ConnectionError come with URLError and OSError.
_PASSING = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)


def _open(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": "microforge", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    response: http.client.HTTPResponse = urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=timeout
    )
    return response


def _append(response: http.client.HTTPResponse, path: Path, start: int, size: int, arrived: Arrived) -> None:
    """Write the body behind the first ``start`` bytes, or from the beginning when the server ignored the range."""
    if start and response.status == 206:
        announced = (response.headers.get("Content-Range") or "").removeprefix("bytes ").split("-")[0]
        if announced != str(start):
            raise http.client.HTTPException(f"the server sent range {announced or 'of nothing'}, not {start}")
    else:
        start = 0
    with path.open("r+b" if path.exists() else "w+b") as stream:
        stream.truncate(start)
        stream.seek(start)
        while block := response.read(min(_BLOCK, size - start + 1)):
            if start + len(block) > size:
                stream.truncate(0)
                raise DownloadError(f"{response.url} is longer than the {size} bytes that the manifest says")
            stream.write(block)
            start += len(block)
            arrived(len(block))
        stream.flush()
        os.fsync(stream.fileno())


def _wait(failures: int, attempts: Attempts) -> None:
    if failures:
        time.sleep(attempts.pause * 2 ** (failures - 1))


def _reason(error: Exception, url: str) -> str:
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (400, 401, 403, 404, 405, 410, 451):
            raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from None
        return f"the server answers {error.code} {error.reason}"
    return str(getattr(error, "reason", None) or error or type(error).__name__)
