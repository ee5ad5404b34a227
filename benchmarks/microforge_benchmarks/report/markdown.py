"""Measured rows as a Markdown table, and its update inside a page (``mf-bench compare --into``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from microforge.bundle.measurements import Row
from microforge.errors import DataError
from microforge.io.atomic import atomic_bytes
from microforge_benchmarks.report.table import megabytes, seconds

BEGIN, END = "<!-- mf-bench begin -->", "<!-- mf-bench end -->"
HEADINGS = ("model", "engine", "px", "steps", "threads", "download MB", "cold load s", "first image s", "warm image s", "peak MB")  # fmt: skip


def markdown_table(rows: Sequence[Row]) -> str:
    """Table with one line per row, followed by the machines on which they were measured; ends with a newline."""
    body = [HEADINGS, ("---",) * len(HEADINGS), *(_cells(row) for row in rows)]
    machines = dict.fromkeys(
        f"{row.environment.device}, {row.environment.processor or 'unknown processor'}, "
        f"{row.environment.engine} {row.environment.engine_version}"
        for row in rows
    )
    return "".join(f"| {' | '.join(line)} |\n" for line in body) + f"\nMeasured on: {'; '.join(machines)}.\n"


def _cells(row: Row) -> tuple[str, ...]:
    latency, warm = row.latency, row.latency.warm_image
    return (
        row.model, f"{row.target} {row.precision}", f"{row.height}x{row.width}", str(row.steps),
        "default" if row.threads is None else str(row.threads), megabytes(row.download), seconds(latency.cold_load),
        seconds(latency.first_image), seconds(warm.median if warm else None), megabytes(row.memory.peak_rss),
    )  # fmt: skip


def with_table(text: str, rows: Sequence[Row], where: str) -> str:
    """``text`` with the table of ``rows`` between the markers ``BEGIN`` and ``END``.

    Raises:
        DataError: when ``text`` does not have each marker once, in order.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end) or text.count(BEGIN) + text.count(END) != 2:
        raise DataError(f"{where} must have the lines {BEGIN} and {END} once, in this order")
    return f"{head}{BEGIN}\n\n{markdown_table(rows)}\n{END}{tail}"


def refresh(page: Path, rows: Sequence[Row], check: bool) -> bool:
    """Write the table into ``page``, unless ``check`` is set; return whether the page was up to date.

    Raises:
        DataError: when the page cannot be read, or lacks the markers.
    """
    try:
        text = page.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{page} cannot be read: {error}") from None
    fresh = with_table(text, rows, str(page))
    if fresh != text and not check:
        atomic_bytes(page, fresh.encode("utf-8"), force=True)
    return fresh == text
