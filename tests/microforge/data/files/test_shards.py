"""WebDataset shards: what is found in them, what damage costs, and that the index is made once."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from microforge.data.files import shards as shards_module
from microforge.data.files.captioned import Listing
from microforge.data.files.shards import expand_shards, list_shards
from microforge.errors import DataError


def _png(color: str = "red", size: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), color).save(stream, "PNG")
    return stream.getvalue()


def _shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            shard.addfile(entry, io.BytesIO(data))
    return path


def _list(folder: Path, *paths: Path) -> Listing:
    return list_shards(paths, folder / "cache", Console(quiet=True))


def test_list_shards_finds_images_captions_and_their_bytes(tmp_path: Path) -> None:
    first = _shard(
        tmp_path / "0.tar",
        {"a.png": _png("red"), "a.txt": b"a red one\nall red\n", "a.cls": b"3", "d/a.txt": b"blue", "d/a.PNG": _png("blue")},
    )  # fmt: skip
    second = _shard(
        tmp_path / "1.tar",
        {"x.y.json": b'{"caption": "dotted", "text": null}', "x.y.jpg": b"J", "z.webp": b"W", "z.json": b'{"text": "w"}',
         "z.txt": b"also w"},
    )  # fmt: skip
    listing = _list(tmp_path, first, second)
    assert {image.name: image.captions for image in listing.images} == {
        "0.tar/a.png": ("a red one", "all red"), "0.tar/d/a.PNG": ("blue",),
        "1.tar/x.y.jpg": ("dotted",), "1.tar/z.webp": ("w", "also w"),
    }  # fmt: skip
    assert listing.skipped == ()
    assert [image.read() for image in listing.images] == [_png("red"), _png("blue"), b"J", b"W"]


def test_list_shards_names_what_it_leaves_out(tmp_path: Path) -> None:
    path = _shard(
        tmp_path / "0.tar",
        {"good.png": _png(), "good.txt": b"good", "good.jpg": b"twice", "bare.png": b"", "lone.txt": b"text",
         "latin.png": b"", "latin.txt": b"\xe9", "odd.png": b"", "odd.json": b"[]", "mute.png": b"", "mute.json": b"{}",
         "._good.png": b"litter"},
    )  # fmt: skip
    listing = _list(tmp_path, path)
    assert [image.name for image in listing.images] == ["0.tar/good.png"]
    assert {item.name: item.reason for item in listing.skipped} == {
        "0.tar/good.jpg": "a second image of good",
        "0.tar/bare.png": "no caption",
        "0.tar/lone": "caption without an image",
        "0.tar/latin.png": "caption is not UTF-8",
        "0.tar/odd.png": "not a JSON object",
        "0.tar/mute.png": 'no "text" or "caption"',
    }


def _numbered(path: Path, count: int = 6) -> tuple[Path, bytes]:
    members: dict[str, bytes] = {}
    for number in range(count):
        members |= {f"{number}.png": _png(size=8 + number), f"{number}.txt": f"image {number}".encode()}
    return _shard(path, members), path.read_bytes()


def test_a_truncated_shard_keeps_what_is_whole(tmp_path: Path) -> None:
    path, data = _numbered(tmp_path / "0.tar")
    path.write_bytes(data[: 4 * 1024 + 700])  # each sample takes 2 KiB: two and a half are left
    listing = _list(tmp_path, path)
    assert [image.name for image in listing.images] == ["0.tar/0.png", "0.tar/1.png"]
    assert ("0.tar", "damaged (unexpected end of data)") in [
        (item.name, item.reason) for item in listing.skipped
    ]


def test_a_broken_header_ends_the_shard_and_is_said(tmp_path: Path) -> None:
    path, data = _numbered(tmp_path / "0.tar")
    path.write_bytes(data[:6144] + b"\xff" * 40 + data[6184:])
    listing = _list(tmp_path, path)
    assert len(listing.images) == 3
    assert [item.reason for item in listing.skipped] == ["damaged at byte 6144, the rest is lost"]


def test_a_file_that_is_no_tar_is_named_beside_good_shards(tmp_path: Path) -> None:
    good, _ = _numbered(tmp_path / "0.tar")
    bad = tmp_path / "1.tar"
    bad.write_bytes(b"not a tar" * 100)
    listing = _list(tmp_path, good, bad)
    assert len(listing.images) == 6 and [item.name for item in listing.skipped] == ["1.tar"]
    with pytest.raises(DataError, match=r"1\.tar hold no image with a caption \(first: 1\.tar: damaged"):
        _list(tmp_path, bad)


def test_a_compressed_shard_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(DataError, match=r"is compressed.*decompress it"):
        _list(tmp_path, path)


def test_an_index_is_made_once_and_again_when_the_shard_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = _numbered(tmp_path / "0.tar")
    read: list[Path] = []
    index = shards_module.index_shard

    def counted(shard: Path) -> shards_module.ShardIndex:
        read.append(shard)
        return index(shard)

    monkeypatch.setattr(shards_module, "index_shard", counted)
    first = _list(tmp_path, path)
    assert _list(tmp_path, path) == first and len(read) == 1
    _numbered(path, count=7)
    assert len(_list(tmp_path, path).images) == 7 and len(read) == 2
    (damaged,) = (tmp_path / "cache").iterdir()
    damaged.write_text('{"version": 1}')
    assert len(_list(tmp_path, path).images) == 7 and len(read) == 3
    assert sorted(item.name for item in tmp_path.iterdir()) == ["0.tar", "cache"], "nothing beside the data"


def test_fingerprint_follows_the_content_not_the_place(tmp_path: Path) -> None:
    path, _ = _numbered(tmp_path / "0.tar")
    before = _list(tmp_path, path).fingerprint
    moved = tmp_path / "elsewhere" / "0.tar"
    moved.parent.mkdir()
    path.rename(moved)
    assert _list(tmp_path, moved).fingerprint == before
    _numbered(moved, count=5)
    assert _list(tmp_path, moved).fingerprint != before


def test_expand_shards_understands_braces_and_stars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a-008.tar", "a-009.tar", "a-010.tar", "b-7.tar"):
        (tmp_path / name).touch()

    def names(pattern: str) -> list[str]:
        return [path.name for path in expand_shards(f"{tmp_path}/{pattern}")]

    assert names("a-{008..010}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert names("{b-7,a-009}.tar") == ["b-7.tar", "a-009.tar"]
    assert names("a-*.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert names("b-{7..7}.tar") == ["b-7.tar"]
    for pattern, says in (("a-{008..011}.tar", r"a-011\.tar does not exist"), ("c*.tar", "names no file")):
        with pytest.raises(DataError, match=says):
            names(pattern)
    monkeypatch.setattr(shards_module, "MAX_SHARDS", 9)
    with pytest.raises(DataError, match="more than 9 shards"):
        names("{0..999}{0..999999}.tar")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), max_size=12), st.integers(0, 14_000))
def test_index_shard_of_damaged_bytes_gives_places_inside_the_file(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]], length: int
) -> None:
    path, data = _numbered(tmp_path_factory.mktemp("damaged") / "0.tar")
    broken = bytearray(data)
    for place, value in damage:
        broken[place] = value
    path.write_bytes(bytes(broken[:length]))
    try:
        found = shards_module.index_shard(path)
    except DataError:
        return  # what looks compressed
    assert all(offset + size <= length and captions for _, offset, size, captions in found.images)
    json.dumps([found.images, found.skipped]).encode("ascii")
