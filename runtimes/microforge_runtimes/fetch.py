"""Downloads a bundle file by file: resumes, verifies, and fetches only what changed.

A bundle is content-addressed: its manifest names the SHA-256 of every file. So a download keeps finished files by hash
in a folder beside the result, takes files with a known hash from the version that is already there, and puts the new
bundle in its place only when every file is verified. Until then the old version stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from microforge.bundle.entry import FileEntry
from microforge.bundle.files import load_bundle, parse_manifest, sha256_file
from microforge.bundle.manifest import MANIFEST
from microforge.bundle.signature import MAX_BYTES, SIGNATURE, check_signature
from microforge.errors import BundleError, OutputError
from microforge.io.atomic import atomic_folder, check_output
from microforge_runtimes.download import Attempts, check_url, download_bytes, download_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

#: A manifest above this many bytes is refused.
MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True)
class FetchProgress:
    """Bytes that are here so far, of the bytes of the whole bundle."""

    done: int
    total: int


def fetch(
    url: str,
    out: str | Path,
    *,
    key: Ed25519PublicKey | None = None,
    force: bool = False,
    callback: Callable[[FetchProgress], None] | None = None,
    attempts: Attempts | None = None,
) -> Path:
    """Download the bundle at ``url`` to the folder ``out``, or bring the one that is there up to date.

    Args:
        url: of the bundle's folder; its manifest is at ``url/manifest.json``.
        out: folder to make. With ``force`` an existing bundle there is updated.
        key: public key that must have signed the bundle (see ``microforge.bundle.signature``).
        callback: called whenever bytes arrive.
        attempts: how patient the download is.

    Returns:
        ``out`` as a path. A download that broke off is continued by the same call.

    Raises:
        DownloadError: when something does not arrive, or is not what the manifest says.
        BundleError: when the manifest is damaged or of another version.
        SignatureError: when ``key`` is given and did not sign the manifest.
        OutputExistsError: when ``out`` exists and ``force`` is off.
        OutputError: when the disk is full or refuses.
    """
    url, out, attempts = check_url(url).rstrip("/"), Path(out), attempts or Attempts()
    check_output(out, force)
    manifest = download_bytes(f"{url}/{MANIFEST}", MAX_MANIFEST_BYTES, attempts)
    signature = None
    if key is not None:
        signature = download_bytes(f"{url}/{SIGNATURE}", MAX_BYTES, attempts)
        check_signature(manifest, signature, key, url)
    entries = list(parse_manifest(manifest, f"{url}/{MANIFEST}").files())
    parts = out.parent / f".{out.name}.parts"
    with _writing(parts):
        parts.mkdir(parents=True, exist_ok=True)
    _collect(url, entries, parts, _files_by_hash(out), _counter(entries, callback), attempts)
    with atomic_folder(out, force, marker=MANIFEST) as folder, _writing(out):
        for entry in entries:
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(parts / entry.sha256, folder / entry.path)
        if signature is not None:
            (folder / SIGNATURE).write_bytes(signature)
        (folder / MANIFEST).write_bytes(manifest)
    shutil.rmtree(parts, ignore_errors=True)
    return out


def _collect(
    url: str,
    entries: list[FileEntry],
    parts: Path,
    present: dict[str, Path],
    arrived: Callable[[int], None],
    attempts: Attempts,
) -> None:
    """Bring a verified file named by its hash into ``parts`` for every entry; unfinished ones end in ``.partial``."""
    for entry in {item.sha256: item for item in entries}.values():
        complete, partial = parts / entry.sha256, parts / f"{entry.sha256}.partial"
        if complete.exists() and sha256_file(complete) == entry.sha256:
            arrived(entry.bytes)
            continue
        with _writing(parts):
            complete.unlink(missing_ok=True)
            old = present.get(entry.sha256)
            if old is not None:
                shutil.copyfile(old, partial)
        if old is not None and sha256_file(partial) == entry.sha256:
            arrived(entry.bytes)
        else:
            if partial.exists():
                arrived(min(partial.stat().st_size, entry.bytes))
            address = f"{url}/{quote(entry.path)}"
            download_file(address, partial, entry.bytes, entry.sha256, attempts, arrived)
        with _writing(parts):
            os.replace(partial, complete)


def _files_by_hash(out: Path) -> dict[str, Path]:
    """Where the files of an existing bundle lie, by the hash that its manifest says; nothing when there is none."""
    try:
        bundle = load_bundle(out)
    except BundleError:
        return {}
    return {entry.sha256: out / entry.path for entry in bundle.files() if (out / entry.path).is_file()}


def _counter(
    entries: list[FileEntry], callback: Callable[[FetchProgress], None] | None
) -> Callable[[int], None]:
    total = sum(entry.bytes for entry in {item.sha256: item for item in entries}.values())
    done = 0

    def arrived(count: int) -> None:
        nonlocal done
        done = min(done + count, total)  # a file that had to start again is counted twice
        if callback is not None:
            callback(FetchProgress(done, total))

    return arrived


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
