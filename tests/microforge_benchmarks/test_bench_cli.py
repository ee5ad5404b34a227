"""``mf-bench``: a whole report of the miniature bundle, refusals, and rows side by side."""

from __future__ import annotations

import html
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from microforge.bundle.measurements import read_rows
from microforge.io.console import exit_code
from microforge_benchmarks.bench_cli import app, compare_app
from microforge_benchmarks.measure import memory
from microforge_benchmarks.report.html import headline

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def report(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "report"
    words = [
        bundle,
        "--out",
        out,
        "--runs",
        "8",
        "--threads",
        "1",
        "--profile",
        "--device",
        "phone-3gb",
        "--name",
        "desk",
    ]
    assert exit_code(app, [str(word) for word in words]) == 0
    return out


def test_the_report_is_one_page_with_its_plots_and_nothing_from_elsewhere(report: Path) -> None:
    page = (report / "report.html").read_text("utf-8")
    order = ["within the", "peak memory, MB", "stages.png", "Measured", "Roofline", "Environment"]
    assert [page.index(words) for words in order] == sorted(page.index(words) for words in order)
    assert "http" not in page and "<script" not in page
    images = re.findall(r"src='([^']+)'", page)
    assert images == ["stages.png", "memory.png", "operators.png"]
    assert all((report / name).read_bytes().startswith(b"\x89PNG") for name in images)
    assert "phone-3gb (projection)" in page and "rates measured" in page
    assert "of this machine's roofline for fp32" in html.unescape(page)


def test_compare_reads_what_bench_wrote(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = str(report / "rows.json")
    assert exit_code(compare_app, [rows, rows, "--json"]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert len(values) == 2 and values[0]["drift"]["images"] == 8
    assert exit_code(compare_app, [rows]) == 0
    assert "warm image s" in capsys.readouterr().out
    assert values[0]["environment"]["device"] == "desk"


def test_a_phone_without_onnx_and_matplotlib_gets_its_rows_and_a_page(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("microforge_benchmarks")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("matplotlib", "matplotlib.figure", "onnx", "microforge.onnx_shapes"):
        monkeypatch.setitem(sys.modules, name, None)
    fresh = importlib.import_module("microforge_benchmarks.bench_cli")
    rows = list(read_rows(report / "rows.json"))
    fresh._write_report(tmp_path, rows, None, [])
    assert read_rows(tmp_path / "rows.json") == tuple(rows)
    assert "microforge[bench]" in capsys.readouterr().err
    assert "<img" not in (tmp_path / "report.html").read_text("utf-8")


def test_a_report_is_not_replaced_without_force(report: Path, bundle: Path) -> None:
    before = read_rows(report / "rows.json")
    assert exit_code(app, [str(bundle), "--out", str(report), "--runs", "1"]) == 2
    assert read_rows(report / "rows.json") == before


@pytest.mark.parametrize(
    "words",
    [["--threads", "0"], ["--threads", "1,two"], ["--mode", "lazy"], ["--target", "tpu"], ["--memory-limit", "some"],
     ["--device", "phone-1gb"], ["--size", "32"]],
)  # fmt: skip
def test_bad_words_are_refused_before_anything_is_measured(
    bundle: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(app, [str(bundle), "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_run_that_dies_under_its_limit_is_reported_and_exits_with_1(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "limit_mechanism", lambda: "rlimit-data")
    out = tmp_path / "out"
    assert exit_code(app, [str(bundle), "--out", str(out), "--memory-limit", "64MiB"]) == 1
    (row,) = read_rows(out / "rows.json")
    assert row.limit is not None and not row.limit.survived
    assert "It failed: died under" in (out / "report.html").read_text("utf-8")


def test_the_headline_is_about_the_first_row_and_names_a_faster_one() -> None:
    one, two = read_rows(Path(__file__).parents[2] / "benchmarks" / "results" / "tiny-int8.json")
    assert one.latency.warm_image and two.latency.warm_image
    slow, quick = (f"{row.latency.warm_image.median:.3f}" for row in (one, two) if row.latency.warm_image)
    assert f"takes {slow} s when warm ({quick} s with onnx, threads: 2)" in headline([one, two], None).text
    assert f"takes {quick} s when warm;" in headline([two, one], None).text
