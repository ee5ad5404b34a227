"""The list of members of a stored zip archive, checked whole before a byte of content is used. No torch.

An archive comes from strangers. Refused are compressed and encrypted members (so no archive unpacks to more than its
own size), links and devices, names that leave the bundle or that a file system could take for one another, members
that overlap, and lists out of proportion.
"""

from __future__ import annotations

import stat
import struct
import unicodedata
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from microforge.bundle.entry import check_relative_path
from microforge.errors import BundleError

#: More members, or a longer list of them in bytes, than any bundle has.
MAX_MEMBERS, MAX_DIRECTORY = 4096, 4 << 20
#: Longest name of a member; the manifest has the same limit.
MAX_NAME = 512
# Signatures and lengths from the format's specification (APPNOTE.TXT, sections 4.3.7, 4.3.14 to 4.3.16).
_LOCAL, _LOCAL_BYTES = b"PK\x03\x04", 30
_END, _END_BYTES, _MAX_COMMENT = b"PK\x05\x06", 22, 0xFFFF
_END64, _END64_BYTES, _LOCATOR64, _LOCATOR64_BYTES = b"PK\x06\x06", 56, b"PK\x06\x07", 20
_ENCRYPTED = 0x1
_REMEDY = "copy or pack the bundle again"


@dataclass(frozen=True)
class Member:
    """One file of an archive: ``bytes`` of content from ``start`` on."""

    name: str
    start: int
    bytes: int


def read_directory(path: Path, stream: BinaryIO) -> dict[str, Member]:
    """The members of the archive ``stream`` by name; ``path`` is for messages.

    Raises:
        BundleError: when it is no zip archive, or one that must be refused.
        OSError: when it cannot be read.
    """
    try:
        _check_proportion(path, stream)
        with zipfile.ZipFile(stream) as archive:
            entries, end = archive.infolist(), archive.start_dir
    except BundleError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise BundleError(f"{path} is no zip archive ({error}); {_REMEDY}") from None
    if len(entries) > MAX_MEMBERS:
        raise BundleError(f"{path} has {len(entries)} members; at most {MAX_MEMBERS} are allowed")
    for entry in entries:
        _check_entry(path, entry)
    files = [entry for entry in entries if not entry.is_dir()]
    _check_names(path, [entry.filename for entry in files])
    members = {entry.filename: _located(path, stream, entry) for entry in files}
    _check_places(path, members, end)
    return members


def _check_proportion(path: Path, stream: BinaryIO) -> None:
    """Refuse a list of members that is too long to be read, from the archive's end record alone."""
    size = stream.seek(0, 2)
    tail_start = max(0, size - _END_BYTES - _MAX_COMMENT - _END64_BYTES - _LOCATOR64_BYTES)
    stream.seek(tail_start)
    tail = stream.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise zipfile.BadZipFile("it has no list of members")
    count, length = struct.unpack_from("<HL", tail, at + 10)
    at64 = at - _LOCATOR64_BYTES - _END64_BYTES
    if at64 >= 0 and tail[at - _LOCATOR64_BYTES :].startswith(_LOCATOR64) and tail[at64:].startswith(_END64):
        count, length = struct.unpack_from("<QQ", tail, at64 + 32)
    if count > MAX_MEMBERS or length > MAX_DIRECTORY:
        raise BundleError(
            f"{path} lists {count} members in {length} bytes; at most {MAX_MEMBERS} in {MAX_DIRECTORY} are allowed"
        )


def _check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    if len(name) > MAX_NAME:
        raise BundleError(f"{path}: the name {name[:80]!r} of a member is not allowed; {_REMEDY}")
    try:
        check_relative_path(name.removesuffix("/"))
    except ValueError as error:
        raise BundleError(f"{path}: {error}; {_REMEDY}") from None
    if entry.filename != name:
        raise BundleError(f"{path}: the name {name[:80]!r} of a member is not allowed; {_REMEDY}")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BundleError(f"{path}: {name} is a link or a device; {_REMEDY}")
    if entry.flag_bits & _ENCRYPTED:
        raise BundleError(f"{path}: {name} is encrypted; {_REMEDY}")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise BundleError(f"{path}: {name} is compressed; members are stored: use mf-export pack, or zip -0")
    if entry.is_dir() and entry.file_size:
        raise BundleError(f"{path}: the folder {name} has content; {_REMEDY}")


def _check_names(path: Path, names: list[str]) -> None:
    """Refuse names that are equal, or that some file system takes for equal, and a file that is also a folder."""
    plain: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name).casefold()
        if key in plain:
            raise BundleError(f"{path} holds {name!r} and {plain[key]!r}: one name twice; {_REMEDY}")
        plain[key] = name
    for key, name in plain.items():
        parts = key.split("/")
        if parent := next((p for i in range(1, len(parts)) if (p := "/".join(parts[:i])) in plain), None):
            raise BundleError(f"{path}: {plain[parent]} is a file, and {name} lies in it; {_REMEDY}")


def _located(path: Path, stream: BinaryIO, entry: zipfile.ZipInfo) -> Member:
    """Where the content of ``entry`` starts, by its local header, which must tell the same name."""
    if not 0 <= entry.header_offset < 1 << 62:
        raise BundleError(f"{path}: {entry.filename} has no header where the list says; {_REMEDY}")
    stream.seek(entry.header_offset)
    header = stream.read(_LOCAL_BYTES)
    if len(header) < _LOCAL_BYTES or not header.startswith(_LOCAL):
        raise BundleError(f"{path}: {entry.filename} has no header where the list says; {_REMEDY}")
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
    encoding = "utf-8" if entry.flag_bits & 0x800 else "cp437"
    if stream.read(name_bytes) != entry.filename.encode(encoding, "replace"):
        raise BundleError(f"{path}: {entry.filename} has another name in its header; {_REMEDY}")
    return Member(
        entry.filename, entry.header_offset + _LOCAL_BYTES + name_bytes + extra_bytes, entry.file_size
    )


def _check_places(path: Path, members: Mapping[str, Member], end: int) -> None:
    """Refuse members that overlap, or reach into the list of members, which begins at ``end``."""
    before = Member("", 0, 0)
    for member in sorted(members.values(), key=lambda item: item.start):
        header = member.start - _LOCAL_BYTES  # at least: name and extra field come on top
        if before.start + before.bytes > header:
            raise BundleError(f"{path}: {before.name} and {member.name} overlap; {_REMEDY}")
        before = member
    if before.start + before.bytes > end:
        raise BundleError(f"{path}: {before.name} reaches beyond the members; {_REMEDY}")
