"""Metadata in CSV and Parquet, as Hugging Face's image folders have it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from microforge.data.files.folders import list_folder
from microforge.data.files.metadata import MetadataRow, read_metadata


def _csv(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "metadata.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_read_metadata_takes_csv_of_every_usual_form(
    tmp_path: Path, encoding: str, separator: str, newline: str
) -> None:
    lines = [
        "file_name;text;label",
        'a.png;"a red; ""big"" circle";1',
        'b.png;"two',
        'lines";2',
        ";;",
        "c.png",
    ]
    path = _csv(tmp_path, newline.join(lines).replace(";", separator), encoding)
    rows, skipped = read_metadata(path)
    assert rows[0] == MetadataRow(2, "a.png", (f'a red{separator} "big" circle',))
    assert (rows[1].line, rows[1].captions[0].split()) == (4, ["two", "lines"])
    assert [item.reason.split(" (")[0] for item in skipped] == ['no "file_name"', 'no "text" or "caption"']


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("file_name,text\na.png,a\n".encode("utf-16"), "UTF-16"),
        ("file_name,text\na.png,a\n".encode("utf-16-le"), "UTF-16"),
        (b"file_name,text\na.png,caf\xe9\n", "not UTF-8"),
        (b"file_name,text\na.png," + b"x" * (2 << 20), "is not CSV"),
    ],
)
def test_read_metadata_says_why_a_csv_cannot_be_read(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "metadata.csv").write_bytes(data)
    rows, (skipped,) = read_metadata(tmp_path / "metadata.csv")
    assert rows == () and reason in skipped.reason


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_read_metadata_never_raises_for_csv(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text\n" + data)
    rows, _ = read_metadata(tmp_path / "metadata.csv")
    assert all(row.file_name and row.captions for row in rows)


def test_list_folder_reads_captions_from_csv_in_subfolders(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "a.png")
    _csv(tmp_path / "train", "file_name,text\na.png,a circle\ngone.png,?\n")
    listing = list_folder(tmp_path)
    assert [image.captions for image in listing.images] == [("a circle",)]
    assert [item.name for item in listing.skipped] == ["train/metadata.csv line 3 (gone.png)"]


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    assert "microforge[parquet]" in read_metadata(tmp_path / "metadata.parquet")[1][0].reason


@pytest.mark.parametrize("name", ["metadata.parquet", "train-00000-of-00001.parquet"])
def test_list_folder_reads_captions_from_parquet(tmp_path: Path, name: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for image in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{image}.png")
    table = pyarrow.table({"file_name": ["a.png", "b.png", "c.png"], "text": ["a circle", None, "?"]})
    parquet.write_table(table, tmp_path / name)
    listing = list_folder(tmp_path)
    assert {image.name: image.captions for image in listing.images} == {"a.png": ("a circle",)}
    assert [item.name for item in listing.skipped] == [
        f"{name} line 2 (b.png)",
        f"{name} line 3 (c.png)",
        "b.png",
    ]


def test_images_packed_in_parquet_are_found_beside_it_or_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    images = [{"bytes": None, "path": "a.png"}, {"bytes": b"x", "path": None}]
    parquet.write_table(
        pyarrow.table({"image": images, "caption": ["one", "two"]}), tmp_path / "train-0.parquet"
    )
    rows, skipped = read_metadata(tmp_path / "train-0.parquet")
    assert rows == (MetadataRow(1, "a.png", ("one",)),)
    assert [item.reason for item in skipped] == [
        "its image is packed inside, which is not read; save it to a file"
    ]


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 and nothing else")
    assert "is damaged" in read_metadata(tmp_path / "metadata.parquet")[1][0].reason


def test_a_parquet_file_of_more_rows_than_bytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "metadata.parquet"
    rows = 300_000
    table = pyarrow.table({"file_name": ["a.png"] * rows, "text": ["x"] * rows})
    parquet.write_table(table, path)
    assert path.stat().st_size < rows
    rows_read, (skipped,) = read_metadata(path)
    assert rows_read == () and f"is damaged: {rows} rows in" in skipped.reason


def test_columns_with_odd_names_stay_on_one_line(tmp_path: Path) -> None:
    path = _csv(tmp_path, 'file_name,"odd\nname\x1b"\na.png,x\n')
    assert "\n" not in read_metadata(path)[1][0].reason and "\x1b" not in read_metadata(path)[1][0].reason
