"""The table inside a page: written between its marks, and seen when it is stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from microforge.bundle.measurements import Environment, Latency, Row, spread
from microforge.io.console import exit_code
from microforge_benchmarks.bench_cli import compare_app
from microforge_benchmarks.report.markdown import BEGIN, END, markdown_table

ROOT = Path(__file__).parents[3]
ROW = Row(
    bundle="0123456789ab", model="tiny", target="onnx", precision="int8", height=256, width=256, steps=4, threads=2,
    loading="resident", download=25_000_000, created="2026-01-01T00:00:00+00:00",
    environment=Environment(
        device="board", system="Linux", processor="a chip", cores=4, runtime="python", engine="onnxruntime",
        engine_version="1.32",
    ),
    latency=Latency(warm_image=spread([0.25])),
)  # fmt: skip


def test_the_table_names_model_and_machine_and_marks_missing_values() -> None:
    text = markdown_table([ROW])
    assert "| tiny | onnx int8 | 256x256 | 4 | 2 | 25.0 | - | - | 0.250 | - |" in text
    assert "Measured on: board, a chip, onnxruntime 1.32." in text


def test_a_page_is_refreshed_between_its_marks_and_checked(tmp_path: Path) -> None:
    page, rows = tmp_path / "README.md", tmp_path / "rows.json"
    rows.write_text(ROW.model_dump_json())
    page.write_text(f"# Top\n{BEGIN}\nstale words\n{END}\nrest\n")
    assert exit_code(compare_app, [str(rows), "--into", str(page), "--check"]) == 1
    assert "stale words" in page.read_text()
    assert exit_code(compare_app, [str(rows), "--into", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Top\n") and text.endswith("rest\n") and "stale words" not in text
    assert exit_code(compare_app, [str(rows), "--into", str(page), "--check"]) == 0


@pytest.mark.parametrize("text", ["no marks", f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN}"])
def test_a_page_without_its_marks_is_left_alone(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page, rows = tmp_path / "README.md", tmp_path / "rows.json"
    rows.write_text(ROW.model_dump_json())
    page.write_text(text)
    assert exit_code(compare_app, [str(rows), "--into", str(page)]) == 2
    assert page.read_text() == text and "once, in this order" in capsys.readouterr().err


def test_the_table_of_the_benchmarks_page_is_that_of_the_results_that_are_checked_in() -> None:
    results = ROOT / "benchmarks" / "results"
    rows = [str(results / name) for name in ("tiny-int8.json", "tiny-fp32.json")]
    assert exit_code(compare_app, [*rows, "--into", str(ROOT / "docs" / "benchmarks.md"), "--check"]) == 0
