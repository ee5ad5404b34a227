"""A folder of images with captions: what counts, what is left out and named, and in which order."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from microforge.data.files.captioned import (
    MAX_CAPTIONS,
    captions_of_json,
    captions_of_text,
    clean_captions,
)
from microforge.data.files.folders import list_folder
from microforge.data.files.metadata import MetadataRow, parse_metadata
from microforge.data.skipped import printable, skip_summary
from microforge.errors import DataError

UNICODE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=40)
LISTS = st.lists(UNICODE, max_size=5)


def _image(path: Path, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), "red").save(path)


def _names(folder: Path) -> dict[str, tuple[str, ...]]:
    return {image.name: image.captions for image in list_folder(folder).images}


def _reasons(folder: Path) -> dict[str, str]:
    return {item.name: item.reason for item in list_folder(folder).skipped}


def test_list_folder_reads_sidecars_in_subfolders_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("z.png", "a/b.JPG", "a/c.webp", "B.gif", "m.bmp", "k.jpeg"):
        _image(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text(f"caption of {name}\n", "utf-8")
    assert list(_names(tmp_path)) == ["B.gif", "a/b.JPG", "a/c.webp", "k.jpeg", "m.bmp", "z.png"]
    assert _names(tmp_path)["a/b.JPG"] == ("caption of a/b.JPG",)
    assert _reasons(tmp_path) == {}


def test_list_folder_reads_metadata_of_the_hugging_face_kind(tmp_path: Path) -> None:
    for name in ("train/1.png", "train/deep/2.png", "3.png"):
        _image(tmp_path / name)
    rows: list[object] = [
        {"file_name": "1.png", "text": "one"},
        {"file_name": "deep/2.png", "caption": "two"},
        {"file_name": "1.png", "text": ["another one", "one"]},
        {"file_name": "../3.png", "text": "three", "caption": "not this", "label": 7},
    ]
    (tmp_path / "train/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert _names(tmp_path) == {
        "3.png": ("three",), "train/1.png": ("one", "another one"), "train/deep/2.png": ("two",),
    }  # fmt: skip


def test_list_folder_reports_every_skipped_file(tmp_path: Path) -> None:
    for name in ("good", "none", "blank", "latin", "huge"):
        _image(tmp_path / f"{name}.png")
    (tmp_path / "good.txt").write_text("fine", "utf-8")
    (tmp_path / "blank.txt").write_text(" \n\t\n", "utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "huge.txt").write_bytes(b"x" * (2 << 20))
    (tmp_path / "lonely.txt").write_text("no image", "utf-8")
    (tmp_path / "metadata.jsonl").write_bytes(
        b'{"file_name": "gone.png", "text": "?"}\n{"text": "?"}\n{]\n[1]\n\n{"file_name": "good.png"}\n'
        b'{"file_name": "good.png", "text": 3}\n{"file_name": "/etc/passwd", "text": "?"}\n\xff'
    )
    assert list(_names(tmp_path)) == ["good.png"]
    assert _reasons(tmp_path) == {
        "none.png": "no caption",
        "blank.png": "caption is empty",
        "latin.png": "caption is not UTF-8",
        "huge.png": "caption file has 2097152 bytes; at most 1048576 are read",
        "lonely.txt": "caption without an image",
        "metadata.jsonl line 1 (gone.png)": "no such image",
        "metadata.jsonl line 2": 'no "file_name"',
        "metadata.jsonl line 3": "not JSON",
        "metadata.jsonl line 4": "not a JSON object",
        "metadata.jsonl line 6 (good.png)": 'no "text" or "caption"',
        "metadata.jsonl line 7 (good.png)": "caption is not a string",
        "metadata.jsonl line 8 (/etc/passwd)": "no such image",
        "metadata.jsonl line 9": "not UTF-8",
    }


def test_list_folder_ignores_hidden_and_system_files(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a", "utf-8")
    for name in ("._a.png", ".hidden/b.png", "__MACOSX/c.png", ".DS_Store.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert list(_names(tmp_path)) == ["a.png"] and _reasons(tmp_path) == {}


def test_list_folder_finds_names_whatever_their_unicode_form(tmp_path: Path) -> None:
    _image(tmp_path / unicodedata.normalize("NFD", "é.png"))
    row = {"file_name": unicodedata.normalize("NFC", "é.png"), "text": "accent"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row), "utf-8")
    assert list(_names(tmp_path).values()) == [("accent",)]


@pytest.mark.skipif(os.name != "posix", reason="such names exist on POSIX only")
def test_list_folder_takes_file_names_that_are_not_text(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"line\nbreak.png"):
        _image(tmp_path / os.fsdecode(name))
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("coffee", "utf-8")
    listing = list_folder(tmp_path)
    assert [image.captions for image in listing.images] == [("coffee",)]
    assert skip_summary(listing.skipped) == "1 left out: line\\nbreak.png: no caption"
    assert printable(listing.images[0].name) == "caf\\udce9.png"


def test_list_folder_names_a_dangling_link(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name, "utf-8")
    assert list(_names(tmp_path)) == ["a.png"]
    assert _reasons(tmp_path) == {"b.png": "No such file or directory"}


def test_list_folder_without_usable_images_names_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no image; allowed: \.jpg, \.jpeg, \.png"):
        list_folder(tmp_path)
    (tmp_path / "picture.tiff").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds no image \(but 1 other files, one is picture\.tiff\)"):
        list_folder(tmp_path)
    _image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"none of the 1 images .*a\.png: no caption.*NAME\.txt") as caught:
        list_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_fingerprint_stays_when_the_folder_moves_and_changes_with_its_content(tmp_path: Path) -> None:
    first = tmp_path / "first"
    for name in "ab":
        _image(first / f"{name}.png")
        (first / f"{name}.txt").write_text(name, "utf-8")
    before = list_folder(first).fingerprint
    moved = Path(shutil.move(first, tmp_path / "second"))
    assert list_folder(moved).fingerprint == before
    (moved / "a.txt").write_text("other", "utf-8")
    other = list_folder(moved).fingerprint
    assert other != before
    _image(moved / "b.png", size=9)
    assert list_folder(moved).fingerprint not in (before, other)


def test_metadata_of_an_image_keeps_its_first_captions(tmp_path: Path) -> None:
    assert len(clean_captions(str(number) for number in range(100))) == MAX_CAPTIONS


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=300))
def test_parse_metadata_never_raises(data: bytes) -> None:
    rows, skipped = parse_metadata(data)
    assert all(row.captions and row.file_name for row in rows)
    assert all(item.reason for item in skipped)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["file_name", "text"]), inner)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(JSON, max_size=6), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_parse_metadata_returns_or_reports_every_line_of_json(values: list[object], newline: str) -> None:
    data = newline.join(map(json.dumps, values)).encode()
    rows, skipped = parse_metadata(data)
    assert len(rows) + len(skipped) == len(values)


def test_parse_metadata_survives_malformed_json() -> None:
    for line in (b"[" * 100_000, b"9" * 10_000, b'{"file_name": "a", "text": "\\ud800"}', b"\xef\xbb\xbf{}"):
        rows, skipped = parse_metadata(line)
        assert len(rows) + len(skipped) == 1
    assert parse_metadata(b'{"file_name": "a", "text": "\\ud800"}')[0] == (MetadataRow(1, "a", ("?",)),)


@settings(deadline=None, max_examples=60)
@given(LISTS, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_captions_of_text_returns_what_was_written(captions: list[str], newline: str, mark: bool) -> None:
    data = newline.join(captions).encode("utf-8-sig" if mark else "utf-8")
    assert captions_of_text(data) == (clean_captions(captions) or "caption is empty")


@settings(deadline=None, max_examples=60)
@given(LISTS, st.sampled_from(["text", "caption"]))
def test_captions_of_json_returns_what_was_written(captions: list[str], key: str) -> None:
    expected = clean_captions(captions) or "caption is empty"
    assert captions_of_json(json.dumps({key: captions}).encode()) == expected
    for text in captions[:1]:
        assert captions_of_json(json.dumps({key: text}).encode()) == (
            clean_captions([text]) or "caption is empty"
        )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(caption=UNICODE.filter(str.strip))
def test_a_caption_of_any_unicode_comes_back_from_disk(tmp_path: Path, caption: str) -> None:
    _image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(caption.encode("utf-8"))
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": caption}), "utf-8")
    expected = clean_captions([caption.removeprefix("\ufeff"), caption])
    assert set(_names(tmp_path)["a.png"]) <= set(expected) and _names(tmp_path)["a.png"]


def test_list_folder_names_images_that_it_cannot_read_and_not_their_captions(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    for name in ("a.txt", "b.avif", "b.txt", "IMG_1.HEIC", "IMG_1.txt", "c.tiff", "d.svg", "e.ico"):
        (tmp_path / name).write_text("text", "utf-8")
    assert list(_names(tmp_path)) == ["a.png"]
    reasons = _reasons(tmp_path)
    assert sorted(reasons) == ["IMG_1.HEIC", "b.avif", "c.tiff", "d.svg", "e.ico"]
    assert reasons["b.avif"].startswith(".avif images are not read; allowed: .jpg")


def test_list_folder_reads_jfif_as_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jfif", "JPEG")
    (tmp_path / "a.txt").write_text("a", "utf-8")
    assert _names(tmp_path) == {"a.jfif": ("a",)}


@pytest.mark.parametrize(("image", "text"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_list_folder_compares_sidecars_in_composed_form(tmp_path: Path, image: str, text: str) -> None:
    _image(tmp_path / unicodedata.normalize(image, "café.png"))  # type: ignore[arg-type]
    (tmp_path / unicodedata.normalize(text, "café.txt")).write_text("coffee", "utf-8")  # type: ignore[arg-type]
    assert list(_names(tmp_path).values()) == [("coffee",)] and _reasons(tmp_path) == {}


def test_list_folder_finds_a_sidecar_and_metadata_in_another_letter_case(tmp_path: Path) -> None:
    for name in ("IMG_1.PNG", "IMG_2.PNG"):
        _image(tmp_path / name)
    (tmp_path / "img_1.txt").write_text("one", "utf-8")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "img_2.png", "text": "two"}', "utf-8")
    assert _names(tmp_path) == {"IMG_1.PNG": ("one",), "IMG_2.PNG": ("two",)} and _reasons(tmp_path) == {}


def test_list_folder_does_not_guess_between_names_that_differ_in_letter_case(tmp_path: Path) -> None:
    for name in ("A.png", "a.png"):
        _image(tmp_path / name)
    (tmp_path / "a.txt").write_text("small", "utf-8")
    (tmp_path / "A.txt").write_text("large", "utf-8")
    assert _names(tmp_path) == {"A.png": ("large",), "a.png": ("small",)}


def test_list_folder_gives_no_image_the_caption_of_another_in_another_letter_case(tmp_path: Path) -> None:
    for name in ("A.png", "a.png"):
        _image(tmp_path / name)
    (tmp_path / "a.txt").write_text("small", "utf-8")
    assert _names(tmp_path) == {"a.png": ("small",)} and _reasons(tmp_path) == {"A.png": "no caption"}


def test_list_folder_takes_backslashes_in_metadata_for_separators(tmp_path: Path) -> None:
    _image(tmp_path / "img" / "0.png")
    row = {"file_name": "img\\0.png", "text": "zero"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row), "utf-8")
    assert _names(tmp_path) == {"img/0.png": ("zero",)} and _reasons(tmp_path) == {}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32"])
def test_list_folder_never_trains_on_captions_in_utf_16(tmp_path: Path, encoding: str) -> None:
    for name in "ab":
        _image(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_bytes("a photo".encode(encoding))
    (tmp_path / "b.txt").write_text("b", "utf-8")
    assert list(_names(tmp_path)) == ["b.png"] and "UTF-16" in _reasons(tmp_path)["a.png"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "prompt": "a"}', r'no "text" or "caption" \(it has: prompt\)'),
        ("metadata.jsonl", '{"filename": "a.png", "text": "a"}', r'metadata\.jsonl line 1: no "file_name"'),
        ("metadata.csv", "file,text\na.png,a\n", r'metadata\.csv line 2: no "file_name"'),
        ("captions.json", '{"a.png": "a"}', r"captions\.json is not read"),
        ("captions.csv", "a.png,a", r"captions\.csv is not read"),
        ("a.caption", "a", r"a\.png: no caption \(a\.caption is not read; name it NAME\.txt\)"),
    ],
)  # fmt: skip
def test_list_folder_says_why_captions_that_are_there_are_not_used(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    _image(tmp_path / "a.png")
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(DataError, match=reason) as caught:
        list_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_list_folder_says_that_linked_folders_are_not_followed(tmp_path: Path) -> None:
    _image(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "photos").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="the folder photos is a link, which is not followed"):
        list_folder(tmp_path / "data")


def test_list_folder_leaves_the_run_folder_out(tmp_path: Path) -> None:
    for name in ("a.png", "run/vae/loss.png", "runner/b.png"):
        _image(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("x", "utf-8")
    images = list_folder(tmp_path, tmp_path / "runner" / ".." / "run").images
    assert [image.name for image in images] == ["a.png", "runner/b.png"]


def test_list_folder_names_pipes_and_never_waits_for_them(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a", "utf-8")
    _image(tmp_path / "c.png")
    for name in ("b.png", "c.txt", "metadata.jsonl", "metadata.csv"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "b.txt").write_text("b", "utf-8")
    assert list(_names(tmp_path)) == ["a.png"]
    assert all("is a named pipe" in reason for reason in _reasons(tmp_path).values())
    assert sorted(_reasons(tmp_path)) == ["b.png", "c.png", "metadata.csv", "metadata.jsonl"]
