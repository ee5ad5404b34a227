"""A bundle's folder into one archive to ship, and back. No torch.

The same folder gives the same bytes everywhere: members are stored and sorted by name, and carry no times, owners
or modes of the machine that packed them.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from microforge.bundle.archive import SUFFIX, is_archive
from microforge.bundle.archive_directory import MAX_MEMBERS
from microforge.bundle.entry import check_relative_path
from microforge.bundle.files import Bundle, load_bundle
from microforge.bundle.manifest import MANIFEST
from microforge.errors import BundleError, OutputError
from microforge.io.atomic import atomic_file, atomic_folder, check_output

#: (name of a file, its number, how many there are): what is being worked on.
FileReporter = Callable[[str, int, int], None]
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the format's first moment
_UNIX, _PLAIN_FILE = 3, 0o100644 << 16


@dataclass(frozen=True)
class Packed:
    """What was written: the bundle's id, its files, and bytes of the result."""

    id: str
    files: int
    bytes: int


def pack_bundle(
    folder: Path, out: Path, force: bool = False, report: FileReporter = lambda *_: None
) -> Packed:
    """Write the bundle ``folder`` as the archive ``out``, after the hash of every file was checked.

    Files whose names begin with a dot (.DS_Store) are left out.

    Raises:
        BundleError: when it is no bundle's folder, a file is damaged, or it holds a link.
        OutputExistsError, OutputError: when ``out`` has another ending or cannot be written.
    """
    if not out.name.endswith(SUFFIX):
        raise OutputError(f"--out is {out}; an archive's name ends in {SUFFIX}")
    check_output(out, force)
    if is_archive(folder):
        raise BundleError(f"{folder} is a file; pack takes a bundle's folder")
    bundle = load_bundle(folder)
    names = sorted(_file_names(folder))
    if len(names) > MAX_MEMBERS:
        raise BundleError(f"{folder} has {len(names)} files; an archive holds {MAX_MEMBERS}")
    for entry in bundle.files():
        bundle.checked(entry)
    with (
        atomic_file(out, force) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive,
    ):
        for number, name in enumerate(names, 1):
            report(name, number, len(names))
            with (folder / name).open("rb") as source, archive.open(_member(folder, name), "w") as member:
                shutil.copyfileobj(source, member, 1 << 20)
    return Packed(bundle.id, len(names), out.stat().st_size)


def unpack_bundle(
    archive: Path, out: Path, force: bool = False, report: FileReporter = lambda *_: None
) -> Packed:
    """Write the bundle in ``archive`` as the folder ``out``, every file's hash checked.

    Raises:
        BundleError: when it is no bundle's archive, or a file in it is damaged.
        OutputExistsError, OutputError: when ``out`` cannot be written.
    """
    check_output(out, force)
    bundle = load_bundle(archive)
    if bundle.archive is None:
        raise BundleError(f"{archive} is a folder; unpack takes a {SUFFIX} archive")
    members = bundle.archive.members
    with atomic_folder(out, force, marker=MANIFEST) as folder:
        for number, name in enumerate(members, 1):
            report(name, number, len(members))
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                bundle.archive.copy(name, target)
            except OSError as error:
                raise OutputError(f"cannot write {out}: {name}: {error.strerror or error}") from None
        _check_copies(bundle, folder)
    return Packed(bundle.id, len(members), sum(member.bytes for member in members.values()))


def _check_copies(bundle: Bundle, folder: Path) -> None:
    copies = Bundle(folder, bundle.manifest, bundle.id)
    for entry in copies.files():
        try:
            copies.checked(entry)
        except BundleError as error:
            raise BundleError(str(error).replace(str(folder), str(bundle.path))) from None


def _file_names(folder: Path) -> Iterator[str]:
    """Names of the files below ``folder``, with / between their parts."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise BundleError(
                    f"{path} is a link or a device, which is not packed; copy the bundle with cp -rL first"
                )
        for name in files:
            if not name.startswith("."):
                relative = Path(parent, name).relative_to(folder).as_posix()
                try:
                    yield check_relative_path(relative)
                except ValueError as error:
                    raise BundleError(f"{folder}: {error}; rename the file") from None


def _member(folder: Path, name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.create_system, member.external_attr = _UNIX, _PLAIN_FILE
    member.compress_type, member.file_size = zipfile.ZIP_STORED, (folder / name).stat().st_size
    return member
