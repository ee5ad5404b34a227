"""The row format: summaries by hand, one schema, and no half-read files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from microforge.bundle.measurements import (
    Environment,
    Limit,
    Row,
    drift,
    read_rows,
    schema_text,
    spread,
)
from microforge.errors import DataError
from microforge_benchmarks.report.table import HEADINGS, cells

ROOT = Path(__file__).parents[3]
ROW = Row(
    bundle="0123456789ab", model="nano", target="onnx", precision="fp32", height=64, width=96, steps=4, threads=None,
    loading="staged", download=1000, created="2026-01-01T00:00:00+00:00",
    environment=Environment(
        device="a phone", system="Android 14", processor="", cores=8, runtime="kotlin", engine="onnxruntime",
        engine_version="1.20",
    ),
)  # fmt: skip


def test_a_spread_is_what_it_says() -> None:
    found = spread([float(value) for value in range(10, 0, -1)])
    assert (found.count, found.median, found.p90, found.least) == (10, 5.5, 9.0, 1.0)
    assert spread([2.0]).p90 == 2.0


def test_drift_compares_the_ends_of_a_run() -> None:
    found = drift([1.0, 1.0, 9.0, 9.0, 9.0, 9.0, 1.5, 1.5])
    assert found is not None and found.ratio == 1.5 and found.images == 8
    assert drift([1.0] * 7) is None


def test_the_checked_in_schema_is_current() -> None:
    assert (ROOT / "docs" / "bench_row.schema.json").read_text("utf-8") == schema_text()


def test_bench_rows_survive_a_file_alone_and_in_a_list(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(ROW.model_dump_json())
    assert read_rows(path) == (ROW,)
    path.write_text(json.dumps([ROW.model_dump(mode="json")] * 2))
    assert read_rows(path) == (ROW, ROW)


def test_an_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text(json.dumps({**ROW.model_dump(mode="json"), "speed": 3}))
    with pytest.raises(DataError, match="speed"):
        read_rows(path)
    path.write_text("[")
    with pytest.raises(DataError, match="not JSON"):
        read_rows(path)


def test_a_run_that_died_must_say_why() -> None:
    limit = Limit(bytes=10, mechanism="rlimit-data", survived=False)
    with pytest.raises(ValidationError, match="needs a failure"):
        Row.model_validate({**ROW.model_dump(), "limit": limit})


def test_what_was_not_measured_is_a_dash_never_a_zero() -> None:
    line = dict(zip(HEADINGS, cells(ROW), strict=True))
    assert line["warm image s"] == line["peak RSS MB"] == line["drift"] == "-"
    assert line["download MB"] == "0.0" and line["threads"] == "default"
