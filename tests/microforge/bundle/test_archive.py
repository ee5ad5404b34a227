"""A bundle as one archive: the same bundle, nothing unpacked before it is needed, nothing hostile let in."""

from __future__ import annotations

import gc
import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microforge.bundle.archive import Archive
from microforge.bundle.files import Bundle, is_bundle, load_bundle
from microforge.bundle.manifest import MANIFEST
from microforge.bundle.pack import pack_bundle, unpack_bundle
from microforge.errors import BundleError, OutputError, OutputExistsError
from tests.microforge.bundle.manifests import write_bundle

Members = list[tuple[zipfile.ZipInfo, bytes]]


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own, where private copies appear."""
    folder = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def packed(bundle_folder: Path, tmp_path: Path) -> Path:
    pack_bundle(bundle_folder, tmp_path / "model.mfb.zip")
    return tmp_path / "model.mfb.zip"


def _written(path: Path, members: Members, **options: object) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:  # type: ignore[call-overload]
        for info, data in members:
            archive.writestr(info, data)
    return path


def _info(name: str, mode: int = stat.S_IFREG | 0o644, compress: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr, info.compress_type = 3, mode << 16, compress
    return info


def test_an_archive_is_the_same_bundle_as_its_folder(bundle_folder: Path, packed: Path) -> None:
    folder, archive = load_bundle(bundle_folder), load_bundle(packed)
    assert archive.id == folder.id and archive.manifest == folder.manifest
    for entry in folder.files():
        assert archive.checked(entry).read_bytes() == folder.checked(entry).read_bytes()
    assert is_bundle(packed) and is_bundle(bundle_folder) and not is_bundle(packed.parent / "none")


def test_an_archive_copies_only_what_is_asked_for_and_removes_it(packed: Path, temporary: Path) -> None:
    bundle = load_bundle(packed)
    assert not list(temporary.iterdir()), "reading the manifest copies nothing"
    path = bundle.file("onnx", "b")
    copies = sorted(p.name for p in temporary.rglob("*") if p.is_file() and p.name != ".lock")
    assert copies == ["d.onnx", "weights.bin"] and path.parent.stat().st_uid == os.getuid()
    assert stat.S_IMODE(next(temporary.iterdir()).stat().st_mode) == 0o700
    del bundle, path
    gc.collect()
    assert not list(temporary.iterdir())


def test_copies_of_a_killed_process_go_when_the_next_archive_is_used(packed: Path, temporary: Path) -> None:
    code = (
        "import os, signal, sys, tempfile; tempfile.tempdir = sys.argv[2]\n"
        "from microforge.bundle.files import load_bundle\n"
        "bundle = load_bundle(sys.argv[1]); bundle.tokenizer_file(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, packed, temporary], timeout=60)
    assert done.returncode == -9 and len(list(temporary.iterdir())) == 1
    bundle = load_bundle(packed)
    bundle.tokenizer_file()
    assert len(list(temporary.iterdir())) == 1, "the new folder alone"
    other = load_bundle(packed)
    other.tokenizer_file()
    assert len(list(temporary.iterdir())) == 2, "a living process keeps its own"


def test_an_archive_replaced_while_open_is_read_as_it_was(packed: Path, tmp_path: Path) -> None:
    bundle = load_bundle(packed)
    (tmp_path / "other").write_bytes(b"something else")
    os.replace(tmp_path / "other", packed)
    assert bundle.tokenizer_file().read_text() == "contents of tokenizer.json"


def test_packing_twice_gives_the_same_bytes_sorted_and_stored(bundle_folder: Path, tmp_path: Path) -> None:
    (bundle_folder / ".DS_Store").write_bytes(b"x")
    (bundle_folder / "report.json").write_text("{}")
    pack_bundle(bundle_folder, tmp_path / "a.mfb.zip")
    copy = tmp_path / "copy.mfb"
    shutil.copytree(bundle_folder, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
        path.chmod(0o755)
    pack_bundle(copy, tmp_path / "b.mfb.zip")
    assert (tmp_path / "a.mfb.zip").read_bytes() == (tmp_path / "b.mfb.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.mfb.zip") as archive:
        names = archive.namelist()
        assert archive.testzip() is None and {i.compress_type for i in archive.infolist()} == {0}
    assert names == sorted(names) and "report.json" in names and ".DS_Store" not in names


def test_unpacking_gives_the_folder_back(bundle_folder: Path, packed: Path, tmp_path: Path) -> None:
    made = unpack_bundle(packed, tmp_path / "back.mfb")
    names = {p.relative_to(bundle_folder) for p in bundle_folder.rglob("*")}
    assert {p.relative_to(tmp_path / "back.mfb") for p in (tmp_path / "back.mfb").rglob("*")} == names
    assert load_bundle(tmp_path / "back.mfb").id == made.id == load_bundle(bundle_folder).id


def test_pack_and_unpack_refuse_what_cannot_be_right(
    bundle_folder: Path, packed: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutputExistsError, match="already exists"):
        pack_bundle(bundle_folder, packed)
    with pytest.raises(OutputError, match=r"ends in \.mfb\.zip"):
        pack_bundle(bundle_folder, tmp_path / "model.zip")
    with pytest.raises(BundleError, match="is a file; pack takes a bundle's folder"):
        pack_bundle(packed, tmp_path / "b.mfb.zip")
    with pytest.raises(BundleError, match=r"is a folder; unpack takes a \.mfb\.zip archive"):
        unpack_bundle(bundle_folder, tmp_path / "b.mfb")
    (bundle_folder / "onnx/weights.bin").write_bytes(b"contents of onnx/weights.biN")
    with pytest.raises(BundleError, match="the manifest says"):
        pack_bundle(bundle_folder, tmp_path / "b.mfb.zip")
    (bundle_folder / "onnx/weights.bin").unlink()
    (bundle_folder / "onnx/weights.bin").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="is a link"):
        pack_bundle(bundle_folder, tmp_path / "b.mfb.zip")
    assert not (tmp_path / "b.mfb.zip").exists() and not (tmp_path / "b.mfb").exists()


def test_a_damaged_member_is_named_and_nothing_is_left(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes().replace(b"contents of onnx/d.onnx", b"contents of onnx/d.onnX")
    packed.write_bytes(data)
    bundle = load_bundle(packed)
    with pytest.raises(BundleError, match=r"d\.onnx has SHA-256"):
        bundle.file("onnx", "b")
    with pytest.raises(BundleError, match=r"model\.mfb\.zip/onnx/d\.onnx has SHA-256"):
        unpack_bundle(packed, tmp_path / "back.mfb")
    assert not (tmp_path / "back.mfb").exists()


HOSTILE: dict[str, tuple[Members, str]] = {
    "climbing": ([(_info("../evil"), b"x")], "must be relative"),
    "absolute": ([(_info("/etc/evil"), b"x")], "must be relative"),
    "backslash": ([(_info("a\\b"), b"x")], "must be relative"),
    "drive": ([(_info("c:evil"), b"x")], "must be relative"),
    "dot": ([(_info("a/./b"), b"x")], "must be relative"),
    "long": ([(_info("a" * 600), b"x")], "is not allowed"),
    "link": ([(_info("a", stat.S_IFLNK | 0o777), b"/etc/passwd")], "is a link or a device"),
    "device": ([(_info("a", stat.S_IFCHR | 0o666), b"")], "is a link or a device"),
    "twice": ([(_info("a"), b"x"), (_info("a"), b"y")], "one name twice"),
    "letter case": ([(_info("A/b"), b"x"), (_info("a/B"), b"y")], "one name twice"),
    "composed": ([(_info("\u00e9"), b"x"), (_info("e\u0301"), b"y")], "one name twice"),
    "file as folder": ([(_info("a"), b"x"), (_info("a/b"), b"y")], "is a file, and a/b lies in it"),
    "bomb": ([(_info("a", compress=zipfile.ZIP_DEFLATED), b"0" * 10**6)], "is compressed; members are stored"),
    "no manifest": ([(_info("a"), b"x")], "lacks its file manifest.json"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    members, message = HOSTILE[kind]
    path = _written(tmp_path / "x.mfb.zip", members)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(path)
    assert "\n" not in str(caught.value)


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    path = _written(tmp_path / "x.mfb.zip", [(_info("a"), b"x" * 500), (_info("b"), b"y" * 20)])
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02", 0, data.rfind(b"PK\x01\x02"))
    struct.pack_into("<LL", data, at + 20, 540, 540)  # a now claims bytes of b
    path.write_bytes(data)
    with pytest.raises(BundleError, match="overlap"):
        Archive(path)


def test_a_list_of_members_out_of_proportion_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.mfb.zip"
    _written(path, [(_info(f"{index}"), b"") for index in range(5000)])
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(BundleError, match="lists 5000 members"):
        Archive(path)


def test_a_header_with_another_name_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path / "x.mfb.zip", [(_info("manifest.json"), b"{}")])
    path.write_bytes(path.read_bytes().replace(b"manifest.json", b"another1.json", 1))
    with pytest.raises(BundleError, match="has another name in its header"):
        Archive(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no zip archive"),
        (b"<html>", "is no zip archive"),
        (b"PK\x05\x06" + bytes(18), "lacks its file manifest.json"),
    ],
)
def test_a_file_that_is_no_archive_is_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.mfb.zip").write_bytes(data)
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path / "x.mfb.zip")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 40),
)
def test_a_changed_archive_opens_or_is_refused(
    packed: Path, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(packed.read_bytes())
    directory = data.find(b"PK\x01\x02")
    for at, value in changes:
        data[directory + at % (len(data) - directory)] = value
    path = packed.with_name("changed.mfb.zip")
    path.write_bytes(bytes(data[: len(data) - cut]))
    try:
        bundle: Bundle = load_bundle(path)
        for entry in bundle.files():
            bundle.checked(entry)
    except BundleError as error:
        assert "\n" not in str(error)


def test_a_full_disk_is_one_line(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object, **__: object) -> io.BytesIO:
        raise OSError(28, "No space left on device")

    bundle = load_bundle(packed)
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(BundleError, match="No space left on device; set TMPDIR"):
        bundle.tokenizer_file()


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    """A bundle of a few bytes."""
    folder = write_bundle(tmp_path / "model.mfb")
    assert (folder / MANIFEST).is_file()
    return folder


def test_a_header_at_an_impossible_offset_is_refused(tmp_path: Path) -> None:
    name, extra = b"manifest.json", struct.pack("<HHQ", 1, 8, 1 << 63)
    fields = (b"PK\x01\x02", 45, 45, 0, 0, 0, 0x21, 0, 2, 2, len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF)
    directory = struct.pack("<4s6H3L5H2L", *fields) + name + extra
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), 0, 0)
    (tmp_path / "x.mfb.zip").write_bytes(directory + end)
    with pytest.raises(BundleError, match=r"manifest\.json has no header where the list says"):
        load_bundle(tmp_path / "x.mfb.zip")


def test_a_name_of_sixty_thousand_characters_is_cut_in_the_message(tmp_path: Path) -> None:
    path = _written(tmp_path / "x.mfb.zip", [(_info("../" + "a" * 60_000), b"x")])
    with pytest.raises(BundleError, match="is not allowed") as caught:
        load_bundle(path)
    assert len(str(caught.value)) < 400


def test_of_a_manifest_out_of_proportion_only_the_beginning_is_read(tmp_path: Path) -> None:
    path = _written(tmp_path / "x.mfb.zip", [(_info("manifest.json"), b" " * (18 << 20))])
    assert len(Archive(path).read("manifest.json", 1000)) == 1000
    with pytest.raises(BundleError, match="has more than 16,777,216 bytes"):
        load_bundle(path)
