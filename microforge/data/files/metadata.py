"""Metadata files of Hugging Face's image folders: ``metadata.jsonl``, ``metadata.csv`` and Parquet files.

https://huggingface.co/docs/datasets/image_dataset: each row has ``file_name``, relative to the metadata's own folder, and
further columns. Nothing here is fatal: a row that cannot be used is a string, the reason.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microforge.data.files.captioned import captions_of_row, numbered_lines, parse_object
from microforge.data.skipped import Skipped, printable
from microforge.errors import missing_extra
from microforge.io.user_file import UnusableFileError, check_regular_file, decode_text, read_user_file

METADATA = "metadata.jsonl"
CSV = "metadata.csv"
_PARQUET = ".parquet"
#: Largest cell of a CSV file in characters.
_MAX_CELL = 1 << 20
_SEPARATORS = (",", ";", "\t")

#: A row's values by column, or the reason why there are none.
Row = dict[str, object] | str


@dataclass(frozen=True)
class MetadataRow:
    """A row of a metadata file: its line number, ``file_name`` as written there, and the captions."""

    line: int
    file_name: str
    captions: tuple[str, ...]


def is_metadata(name: str) -> bool:
    """Whether a file called ``name`` (without its folder) is read as metadata."""
    return name in (METADATA, CSV) or name.endswith(_PARQUET)


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows of a metadata file with their line numbers from 1 (of Parquet, row numbers); 0 for the file as a whole."""
    try:
        if path.name.endswith(_PARQUET):
            check_regular_file(path)
            yield from _parquet_rows(path)
        elif path.name == CSV:
            yield from _csv_rows(read_user_file(path))
        else:
            yield from _json_rows(read_user_file(path))
    except UnusableFileError as error:
        yield 0, str(error)
    except OSError as error:
        yield 0, f"cannot be read: {error.strerror or error}"


def read_metadata(path: Path) -> tuple[tuple[MetadataRow, ...], tuple[Skipped, ...]]:
    """The captions in a metadata file; unusable rows are skipped under the name ``line N``. Never raises."""
    return _captioned(read_rows(path))


def parse_metadata(data: bytes) -> tuple[tuple[MetadataRow, ...], tuple[Skipped, ...]]:
    """The captions in the content of a ``metadata.jsonl``, as ``read_metadata`` gives them. Never raises."""
    return _captioned(_json_rows(data))


def _captioned(values: Iterator[tuple[int, Row]]) -> tuple[tuple[MetadataRow, ...], tuple[Skipped, ...]]:
    rows, skipped = [], []
    for number, row in values:
        place = f"line {number}" if number else ""
        file_name = row.get("file_name") if isinstance(row, dict) else None
        if isinstance(row, str):
            skipped.append(Skipped(place, row))
        elif not isinstance(file_name, str) or not file_name:
            skipped.append(Skipped(place, f'no "file_name"{_columns(row)}'))
        elif isinstance(captions := captions_of_row(row), str):
            columns = _columns(row) if captions.startswith("no ") else ""
            skipped.append(Skipped(f"{place} ({file_name})", captions + columns))
        else:
            rows.append(MetadataRow(number, file_name, captions))
    return tuple(rows), tuple(skipped)


def _columns(row: Mapping[str, object]) -> str:
    """What a row has instead, where that is more than the file's name."""
    names = [printable(name)[:40] for name in row if name != "file_name" and row[name] is not None]
    return f" (it has: {', '.join(names[:6])})" if names and "text" not in names else ""


def _json_rows(data: bytes) -> Iterator[tuple[int, Row]]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # one reason and not one for every line
        yield 0, "is UTF-16, not UTF-8; save it as UTF-8"
        return
    for number, line in numbered_lines(data):
        yield number, parse_object(line)


def _csv_rows(data: bytes) -> Iterator[tuple[int, Row]]:
    text = decode_text(data)
    first = text.split("\n", 1)[0]
    separator = next((mark for mark in _SEPARATORS if "file_name" in first and mark in first), ",")
    before = csv.field_size_limit(_MAX_CELL)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for row in reader:
            yield reader.line_num, {name: value for name, value in row.items() if name and value is not None}
    except csv.Error as error:
        yield 0, f"is not CSV: {printable(str(error))[:160]}"
    finally:
        csv.field_size_limit(before)


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        from pyarrow import parquet
    except ImportError:
        yield 0, f"is not read: {missing_extra('pyarrow', 'parquet')}"
        return
    try:
        number, table = 0, parquet.ParquetFile(path)
        if table.metadata.num_rows > path.stat().st_size:  # a name of a file takes a byte at least
            yield 0, f"is damaged: {table.metadata.num_rows} rows in {path.stat().st_size} bytes"
            return
        for batch in table.iter_batches(batch_size=1024, columns=_parquet_columns(parquet, path)):
            for row in batch.to_pylist():
                number += 1
                yield number, _named(row)
    except Exception as error:  # the library's errors share no base of their own
        yield 0, f"is damaged: {' '.join(str(error).split())[:160]}"


def _parquet_columns(parquet: Any, path: Path) -> list[str]:
    """All columns but the bytes of images that are packed inside."""
    schema = parquet.read_schema(path)
    packed = [field.name for field in schema if str(field.type).startswith("struct<bytes")]
    return [field.name for field in schema if field.name not in packed] + [f"{name}.path" for name in packed]


def _named(row: dict[str, object]) -> Row:
    """``row`` with ``file_name``, which Hugging Face's tables have as ``image.path``."""
    image = row.get("image")
    if row.get("file_name") is None and isinstance(image, dict):
        path = image.get("path")
        if not isinstance(path, str):
            return "its image is packed inside, which is not read; save it to a file"
        return {**row, "file_name": path}
    return row
