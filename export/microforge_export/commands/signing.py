"""``mf-export sign`` and ``fetch``: a bundle that comes from whom it says, and whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import print_json
from microforge_export.commands import options

PrivateKey = Annotated[
    Path,
    typer.Option(
        "--key",
        help="Ed25519 private key in PEM form, unencrypted. openssl genpkey -algorithm ed25519 -out key.pem makes one.",
        metavar="KEY.pem",
    ),
]
Url = Annotated[
    str, typer.Argument(help="Address of a bundle's folder: its manifest.json is below it.", metavar="URL")
]
FolderOut = Annotated[
    Path, typer.Option(help="Bundle folder to write, or to update with --force.", metavar="FOLDER.mfb")
]


def sign(
    bundle: options.Bundle, key: PrivateKey, force: options.Force = False, json: options.Json = False
) -> None:
    """Sign a bundle's folder: writes manifest.json.sig, which vouches for every file.

    The hash of every file is checked first. --force replaces a signature.
    """
    from microforge.bundle.files import load_bundle
    from microforge.bundle.manifest import MANIFEST
    from microforge.bundle.signature import SIGNATURE, read_private_key
    from microforge.bundle.signature import sign as signature_of
    from microforge.errors import BundleError
    from microforge.io.atomic import atomic_bytes

    opened = load_bundle(bundle)
    if opened.archive is not None:
        raise BundleError(f"{bundle} is an archive; sign the bundle's folder and pack it again")
    for entry in opened.files():
        opened.checked(entry)
    path = bundle / SIGNATURE
    atomic_bytes(path, signature_of((bundle / MANIFEST).read_bytes(), read_private_key(key)), force)
    if json:
        print_json({"out": str(path.absolute()), "id": opened.id, "signature": SIGNATURE})
    else:
        print(path.absolute())


def fetch(
    url: Url,
    out: FolderOut,
    key: options.TrustedKey = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Download a bundle: resumes, checks every file, and with --force fetches only what changed.

    The old version stays until the new one is complete and verified.
    """
    from microforge.bundle.files import load_bundle
    from microforge.bundle.signature import read_key
    from microforge_export.commands.output import byte_progress
    from microforge_runtimes.fetch import fetch as download

    with byte_progress(f"fetching {out.name}") as report:
        path = download(
            url,
            out,
            key=read_key(key),
            force=force,
            callback=lambda progress: report(progress.done, progress.total),
        )
    if json:
        print_json({"out": str(path.absolute()), "id": load_bundle(path).id})
    else:
        print(path.absolute())
