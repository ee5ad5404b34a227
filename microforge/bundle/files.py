"""Bundles on disk, as a folder or as one archive: reading with every hash checked, and writing so that a result is whole or absent.

``load_bundle`` refuses a manifest that is truncated, of another schema version, or holds an unknown key;
``Bundle.file`` and its siblings return a path only after its size and SHA-256 were checked.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from microforge.bundle.archive import SUFFIX, Archive, is_archive
from microforge.bundle.entry import FileEntry
from microforge.bundle.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SCHEMA_VERSION,
    Component,
    Manifest,
    Size,
    SizeEntry,
)
from microforge.bundle.signature import MAX_BYTES, SIGNATURE, check_signature
from microforge.bundle.targets import Target
from microforge.errors import BundleError, SignatureError
from microforge.spec import SizeInput, read_size

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest, and its id (12 hex digits of the manifest's SHA-256).

    ``path`` is the folder, or the ``archive``. Paths of an archive's files hold as long as the bundle is referenced.
    """

    path: Path
    manifest: Manifest
    id: str
    archive: Archive | None = field(default=None, repr=False, compare=False)
    _checked: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False, compare=False)

    def target(self, name: str) -> Target:
        """The files and measurements of one engine.

        Raises:
            BundleError: when the bundle was not built for it.
        """
        for target_name, target in self.manifest.targets.items():
            if target_name == name:
                return target
        raise BundleError(
            f"{self.path} has no target {name!r}; it has: {', '.join(self.manifest.targets) or 'none'}"
        )

    def size(self, size: SizeInput | None = None) -> SizeEntry:
        """The entry of ``size`` (256, "256x384" or (256, 384), height first), or of the only size when it is None.

        Raises:
            BundleError: for a size that the bundle lacks, or None when it has several.
            SpecError: for what is no size.
        """
        entries = self.manifest.sizes
        allowed = ", ".join(str(entry.size) for entry in entries)
        if size is None:
            if len(entries) == 1:
                return entries[0]
            raise BundleError(f"{self.path} has several sizes; choose one: {allowed}")
        height, width = read_size(size)
        for entry in entries:
            if (entry.height, entry.width) == (height, width):
                return entry
        raise BundleError(f"{self.path} has no size {height}x{width}; it has: {allowed}")

    def component(self, role: str, size: Size | None = None) -> tuple[str, Component]:
        """Key and entry of the component with this role at ``size``, or of the one that serves every size.

        Raises:
            BundleError: when the bundle has none.
        """
        key = self.manifest.find(role, size)
        if key is None:
            where = "" if size is None else f" for size {size.height}x{size.width}"
            roles = sorted({component.role for component in self.manifest.components.values()})
            raise BundleError(f"{self.path} has no {role}{where}; it has: {', '.join(roles) or 'nothing'}")
        return key, self.manifest.components[key]

    def file(self, target: str, key: str) -> Path:
        """Checked path of component ``key`` for ``target``; its parts and the target's shared files are checked too.

        Raises:
            BundleError: for a target or file that is missing, outside the bundle, or not what its hash says.
        """
        entry = self.target(target)
        if key not in entry.files:
            raise BundleError(f"{self.path}: target {target} has no file for component {key!r}")
        for other in (*entry.shared_files, *entry.parts.get(key, ())):
            self.checked(other)
        return self.checked(entry.files[key])

    def tokenizer_file(self, name: str | None = None) -> Path:
        """Checked path of a tokenizer of the manifest, the first one when ``name`` is None."""
        tokenizers = self.manifest.tokenizers
        return self.checked(tokenizers[next(iter(tokenizers)) if name is None else name].file)

    def files(self) -> list[FileEntry]:
        """Every file that the manifest names, each once."""
        return list(self.manifest.files())

    def locate(self, relative: str) -> Path:
        """Path of the bundle's file ``relative``, unchecked: in the folder, or an archive's copy of it.

        Raises:
            BundleError: when it is reached through a link, or the archive has no such file.
        """
        return inside(self.path, relative) if self.archive is None else self.archive.extract(relative)

    def stored_entry(self, relative: str) -> FileEntry:
        """The entry that the file ``relative`` would have as it is stored now, whatever the manifest says.

        Raises:
            BundleError: as ``locate``; also when it cannot be read.
            OSError: when there is none.
        """
        path = self.locate(relative)
        return FileEntry(path=relative, sha256=sha256_file(path), bytes=path.stat().st_size)

    def checked(self, entry: FileEntry) -> Path:
        """Path of ``entry`` after its place, size and hash were checked; an unchanged file is hashed once.

        Raises:
            BundleError: when it is missing, reached through a link, or its size or hash differs.
        """
        path = self.locate(entry.path)
        if not os.path.isfile(path):
            raise BundleError(f"{self.path} lacks its file {entry.path}; copy or build the bundle again")
        status = path.stat()
        if self._checked.get(entry.path) == (status.st_size, status.st_mtime_ns):
            return path
        if status.st_size != entry.bytes:
            raise BundleError(
                f"{path} has {status.st_size} bytes, the manifest says {entry.bytes}; copy or build the bundle again"
            )
        digest = sha256_file(path)
        if digest != entry.sha256:
            raise BundleError(
                f"{path} has SHA-256 {digest[:12]}..., the manifest says {entry.sha256[:12]}...; "
                "copy or build the bundle again"
            )
        self._checked[entry.path] = (status.st_size, status.st_mtime_ns)
        return path


def inside(folder: Path, relative: str) -> Path:
    """``folder / relative`` when no folder on the way is a link, and the file is none or leads to a regular file.

    Download caches keep files as links to blobs. That is safe because what the file holds is used only when its size
    and hash are those of the manifest.

    Raises:
        BundleError: otherwise. (The manifest has already refused ``..`` and absolute paths.)
    """
    *folders, name = relative.split("/")
    path = folder
    for part in folders:
        path = path / part
        if os.path.islink(path):
            raise BundleError(
                f"{path} is a link; folders of a bundle must lie inside it: copy it with cp -rL"
            )
    path = path / name
    if os.path.islink(path) and os.path.exists(path) and not os.path.isfile(path):
        raise BundleError(
            f"{path} is a link to something that is no regular file; copy the bundle with cp -rL"
        )
    return path


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in lower-case hex.

    Raises:
        BundleError: when it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def file_entry(folder: Path, relative: str) -> FileEntry:
    """The manifest entry of the existing file ``folder / relative``."""
    path = folder / relative
    return FileEntry(path=relative, sha256=sha256_file(path), bytes=path.stat().st_size)


def is_bundle(path: Path) -> bool:
    """Whether ``path`` looks like a bundle, folder or archive, and not like a checkpoint's folder."""
    return is_archive(path) or os.path.isfile(path / MANIFEST)


def load_bundle(path: str | Path, key: Ed25519PublicKey | None = None) -> Bundle:
    """Open the bundle ``path``, a folder or an archive: read and check its manifest, not yet its files.

    Args:
        key: of whom is trusted; the bundle must be signed by it. None opens unsigned bundles too.

    Raises:
        BundleError: when it is no bundle, or its manifest is damaged, of another version or not allowed.
        SignatureError: when ``key`` is given and the bundle is not signed by it.
    """
    path = Path(path)
    archive = Archive(path) if is_archive(path) else None
    data = _folder_manifest(path) if archive is None else archive.read(MANIFEST, MAX_MANIFEST_BYTES + 1)
    if key is not None:
        check_signature(data, _signature(path, archive), key, str(path))
    return Bundle(path, parse_manifest(data, str(path / MANIFEST)), manifest_id(data), archive)


def _signature(path: Path, archive: Archive | None) -> bytes:
    try:
        if archive is not None:
            return archive.read(SIGNATURE, MAX_BYTES + 1)
        with inside(path, SIGNATURE).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (BundleError, OSError):
        raise SignatureError(
            f"{path} is not signed: it has no {SIGNATURE}; sign it with mf-export sign, or open it without a key"
        ) from None


def _folder_manifest(folder: Path) -> bytes:
    kinds = f"a bundle is a folder with a {MANIFEST}, or an archive NAME{SUFFIX} of one, made by mf-export"
    if not os.path.isdir(folder):
        what = "is no regular file" if os.path.exists(folder) else "does not exist"
        raise BundleError(f"{folder} {what}; {kinds}")
    path = inside(folder, MANIFEST)
    if not os.path.isfile(path):
        raise BundleError(f"{folder} has no {MANIFEST}; {kinds}")
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None


def manifest_id(data: bytes) -> str:
    """The id of a bundle: the first 12 hex digits of its manifest's SHA-256."""
    return hashlib.sha256(data).hexdigest()[:12]


def parse_manifest(data: bytes, where: str = MANIFEST) -> Manifest:
    """A manifest from the bytes of its file.

    Raises:
        BundleError: one line that names the place, what was found and what is allowed.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{where} has more than {MAX_MANIFEST_BYTES:,} bytes; no manifest is that long")
    data = data.removeprefix(codecs.BOM_UTF8)  # some editors put it before everything that they save
    try:
        values = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{where} is not JSON ({_one_line(error)}); copy or build the bundle again"
        ) from None
    if not isinstance(values, dict):
        raise BundleError(f"{where} must hold a JSON object, got {type(values).__name__}")
    version = values.get("schema_version")
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        raise BundleError(
            f"{where} has schema_version {_one_line(repr(version))[:40]}, this version reads 1 and {SCHEMA_VERSION}; build the bundle "
            "again or update microforge"
        )
    try:
        if version == 1:
            from microforge.bundle.version1 import translate  # few manifests need it

            return translate(data)
        return Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise BundleError(f"{where}: {_first_problem(error, version)}") from None


def _first_problem(error: ValidationError, version: int) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    where = _one_line(".".join(str(part)[:80] for part in problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}; schema version {version} does not have it"
    if problem["type"] == "missing":
        return f"the key {where} is missing"
    value = problem["input"]
    got = f", got {value!r}" if isinstance(value, (str, int, float, bool, type(None))) else ""
    message = _one_line(problem["msg"].removeprefix("Value error, "))
    return f"{where + ': ' if where else ''}{message}{got if len(got) < 80 else ''}"


def _one_line(text: object) -> str:
    """``text`` without line breaks and control characters, of a length that a terminal shows."""
    plain = "".join(c if c.isprintable() else " " for c in str(text))
    return " ".join(plain.split())[:600]


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Write ``manifest.json`` into ``folder``; returns the bundle id."""
    values = json.loads(manifest.model_dump_json())
    ordered = {key: values.pop(key) for key in ("schema_version", "model", "bytes")} | values
    data = (json.dumps(ordered, indent=1, ensure_ascii=False) + "\n").encode("utf-8")
    (folder / MANIFEST).write_bytes(data)
    return manifest_id(data)
