"""``mf-export pack`` and ``unpack``: a bundle as one file to ship, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microforge.io.console import print_json
from microforge_export.commands import options
from microforge_export.commands.output import progress

if TYPE_CHECKING:
    from microforge.bundle.pack import Packed

ArchiveOut = Annotated[
    Path,
    typer.Option(help="Archive to write; its name ends in .mfb.zip.", metavar="FILE.mfb.zip"),
]
ArchiveIn = Annotated[Path, typer.Argument(help="Archive, written by mf-export pack.", metavar="ARCHIVE")]
FolderOut = Annotated[Path, typer.Option(help="Bundle folder to write.", metavar="FOLDER.mfb")]


def pack(
    bundle: options.Bundle, out: ArchiveOut, force: options.Force = False, json: options.Json = False
) -> None:
    """Write a bundle as one archive, NAME.mfb.zip, that every command and runtime opens like the folder.

    The hash of every file is checked first. The same bundle gives the same archive, byte for byte.
    """
    from microforge.bundle.pack import pack_bundle

    with progress() as report:
        packed = pack_bundle(bundle, out, force, lambda name, number, count: report(number, count, name))
    _print(packed, out, json)


def unpack(
    archive: ArchiveIn, out: FolderOut, force: options.Force = False, json: options.Json = False
) -> None:
    """Write the bundle in an archive as a folder, and check the hash of every file."""
    from microforge.bundle.pack import unpack_bundle

    with progress() as report:
        packed = unpack_bundle(archive, out, force, lambda name, number, count: report(number, count, name))
    _print(packed, out, json)


def _print(packed: Packed, out: Path, json: bool) -> None:
    if json:
        print_json(
            {"out": str(out.absolute()), "id": packed.id, "files": packed.files, "bytes": packed.bytes}
        )
    else:
        print(out.absolute())
