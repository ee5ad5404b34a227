"""Downloads a bundle from any web server: ``mf-export fetch`` as a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from microforge.bundle.signature import read_key
from microforge_runtimes.fetch import fetch as fetch_bundle

if TYPE_CHECKING:
    from microforge_runtimes.fetch import FetchProgress


def fetch(
    url: str, out: str | Path, *, key: str | Path | None = None, force: bool = False,
    callback: Callable[[FetchProgress], None] | None = None,
) -> Path:  # fmt: skip
    """Download a bundle, or bring the one at ``out`` up to date; only parts that changed are downloaded.

    Every file is checked against the hash in the manifest. A download that broke off is continued by the same call, and
    an older version at ``out`` stays until the new one is whole.

    Args:
        url: of the bundle's folder on a web server; its manifest is at ``url/manifest.json``.
        out: the bundle's folder to write, by convention ``NAME.mfb``.
        key: file of an Ed25519 public key (PEM) whose owner must have signed the bundle (``mf-export sign``).
        force: bring an existing bundle up to date.
        callback: called with the bytes so far whenever some arrive.

    Returns:
        The path of the bundle, for ``microforge.load``.

    Raises:
        DownloadError: when something does not arrive, or is not what the manifest says.
        BundleError: when the manifest is damaged or of another version.
        SignatureError: when ``key`` is given and did not sign the manifest.
        OutputExistsError: when ``out`` exists and ``force`` is off.
        OutputError: when the disk is full, or ``out`` cannot be written.
        MissingExtraError: for a ``key`` when cryptography is not installed: ``pip install 'microforge[sign]'``.
    """
    return fetch_bundle(url, out, key=read_key(key), force=force, callback=callback)
