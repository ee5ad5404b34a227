"""WebDataset shards: their images and captions, the effect of damage, and the index that is built once."""

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
from microforge.data.files.image_source import PhotoSource
from microforge.data.files.shards import expand_shards, list_shards
from microforge.data.open import open_source
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


def test_a_truncated_shard_keeps_its_complete_images(tmp_path: Path) -> None:
    path, data = _numbered(tmp_path / "0.tar")
    path.write_bytes(data[: 4 * 1024 + 700])  # each sample takes 2 KiB: two and a half are left
    listing = _list(tmp_path, path)
    assert [image.name for image in listing.images] == ["0.tar/0.png", "0.tar/1.png"]
    assert ("0.tar", "damaged (unexpected end of data)") in [
        (item.name, item.reason) for item in listing.skipped
    ]


def test_a_broken_header_ends_the_shard_and_is_reported(tmp_path: Path) -> None:
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


def test_an_index_is_built_once_and_again_when_the_shard_changes(
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


def test_fingerprint_follows_the_content_not_the_location(tmp_path: Path) -> None:
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
def test_index_shard_of_damaged_bytes_gives_offsets_inside_the_file(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]], length: int
) -> None:
    path, data = _numbered(tmp_path_factory.mktemp("damaged") / "0.tar")
    broken = bytearray(data)
    for place, value in damage:
        broken[place] = value
    path.write_bytes(bytes(broken[:length]))
    try:
        index = shards_module.index_shard(path)
    except DataError:
        return  # what looks compressed
    assert all(offset + size <= length and captions for _, offset, size, captions in index.images)
    json.dumps([index.images, index.skipped]).encode("ascii")


def _photos(folder: Path, *paths: Path) -> PhotoSource:
    return PhotoSource("shards", _list(folder, *paths), Console(quiet=True))


def test_equal_names_in_two_shards_cost_no_image(tmp_path: Path) -> None:
    first = _shard(
        tmp_path / "a" / "00000.tar",
        {f"{n}.{kind}": data for n in range(6) for kind, data in (("png", _png()), ("txt", b"red"))},
    )
    second = _shard(
        tmp_path / "b" / "00000.tar",
        {f"{n}.png": _png("blue") for n in range(6)} | {"0.txt": b"blue", "1.txt": b"blue"},
    )
    source = _photos(tmp_path, first, second)
    assert "8 captioned images" in source.describe()
    images = source.images(0, 0, 8, (8, 8), "cpu")
    assert int((images[:, 2] > 0.5).all(dim=(1, 2)).sum()) == 2, "each image once, two of them blue"
    names = [image.name for image in _list(tmp_path, first, second).images]
    assert len(set(names)) == 8 and names[0] == f"{first.as_posix()}/0.png"
    assert {item.name for item in source.skipped} == {f"{second.as_posix()}/{n}.png" for n in (2, 3, 4, 5)}


def test_a_broken_image_costs_only_itself_whatever_its_name(tmp_path: Path) -> None:
    first = _shard(tmp_path / "a" / "0.tar", {"x.png": b"broken", "x.txt": b"x"})
    second = _shard(
        tmp_path / "b" / "0.tar", {"x.png": _png("blue"), "x.txt": b"x", "y.png": _png(), "y.txt": b"y"}
    )
    source = _photos(tmp_path, first, second)
    source.prepare((8, 8))
    assert "2 captioned images" in source.describe()
    assert [item.name for item in source.skipped] == [f"{first.as_posix()}/x.png"]


def _usable(folder: Path, members: dict[str, bytes]) -> dict[str, tuple[str, ...]]:
    return {image.name: image.captions for image in _list(folder, _shard(folder / "0.tar", members)).images}


@pytest.mark.parametrize(
    ("image", "texts"),
    [
        ("00000.image.jpg", {"00000.caption.txt": b"red"}),
        ("00000.jpg", {"00000.caption.txt": b"red"}),
        ("00000.image.png", {"00000.txt": b"red"}),
        ("d.v1/00000.image.png", {"d.v1/00000.text_en.json": b'{"caption": "red"}'}),
        ("00000.jpg", {"00000.json": b'{"width": 8}', "00000.caption.txt": b"red"}),
        ("00000.jpg", {"00000.text": b"red"}),
    ],
)
def test_fields_with_names_form_a_sample_as_webdataset_reads_them(
    tmp_path: Path, image: str, texts: dict[str, bytes]
) -> None:
    assert _usable(tmp_path, {image: _png(), **texts}) == {f"0.tar/{image}": ("red",)}


def test_dots_in_names_do_not_join_different_images(tmp_path: Path) -> None:
    members = {
        "img.1.jpg": b"1", "img.1.txt": b"one", "img.2.jpg": b"2", "img.2.txt": b"two", "img.3.jpg": b"3",
        "img.4.txt": b"four",
    }  # fmt: skip
    assert _usable(tmp_path, members) == {"0.tar/img.1.jpg": ("one",), "0.tar/img.2.jpg": ("two",)}


def test_several_captions_of_one_image_are_joined_and_several_images_are_not(tmp_path: Path) -> None:
    members = {
        "a.image.jpg": b"a", "a.short.txt": b"one", "a.long.txt": b"two",
        "b.left.jpg": b"l", "b.right.jpg": b"r", "b.caption.txt": b"which?",
    }  # fmt: skip
    assert _usable(tmp_path, members) == {"0.tar/a.image.jpg": ("one", "two")}


def test_shards_of_the_webdataset_package_are_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        for n in range(2):
            writer.write({"__key__": f"0000{n}", "image.jpg": _png(), "caption.txt": f"number {n}"})
    listing = _list(tmp_path, tmp_path / "0.tar")
    assert [image.captions for image in listing.images] == [("number 0",), ("number 1",)]


def test_expand_shards_takes_ranges_in_brackets_and_names_with_brackets(tmp_path: Path) -> None:
    for name in ("p-0.tar", "p-1.tar", "p-7.tar", "q[1].tar"):
        (tmp_path / name).touch()
    assert [path.name for path in expand_shards(str(tmp_path / "p-[0-2].tar"))] == ["p-0.tar", "p-1.tar"]
    assert [path.name for path in expand_shards(str(tmp_path / "q[1].tar"))] == ["q[1].tar"]
    with pytest.raises(DataError, match="names no file"):
        expand_shards(str(tmp_path / "r-[0-2].tar"))


@pytest.mark.parametrize(
    "data", ["https://example.org/a.tar", "s3://b/{0..3}.tar", "pipe:curl x", "https:/example.org/a.tar"]
)
def test_data_at_a_url_is_refused_as_such(tmp_path: Path, data: str) -> None:
    with pytest.raises(DataError, match="a URL, which is not read; download it first"):
        open_source(data, tmp_path / "cache", Console(quiet=True))


def test_a_folder_of_shards_in_capitals_is_read(tmp_path: Path) -> None:
    _shard(tmp_path / "shards" / "0.TAR", {"a.png": _png(), "a.txt": b"a"})
    assert (
        "1 captioned"
        in open_source(str(tmp_path / "shards"), tmp_path / "run" / "cache", Console(quiet=True)).describe()
    )


@pytest.mark.parametrize(
    "pattern", ["{1.." + "9" * 5000 + "}.tar", "x**y.tar", "*/../**z", "a\0*.tar", "[", "{0..1}{,", "//*"]
)
def test_a_pattern_that_is_none_is_a_data_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        expand_shards(pattern)


def test_a_range_of_shards_beyond_any_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than 100000 shards"):
        expand_shards(f"{tmp_path}/{{0..999999999999999999}}.tar")
