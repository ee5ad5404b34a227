"""The table of ``mf-bench compare``: one column per measured row."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from microforge.bundle.measurements import Row

MB = 1_000_000
HEADINGS = (
    "device", "model", "target", "size", "steps", "threads", "loading", "download MB", "cold load s", "first image s",
    "warm image s", "p90 s", "CPU s", "peak RSS MB", "peak PSS MB", "drift", "limit",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """Cells of ``row`` in the order of ``HEADINGS``; "-" for values that were not measured."""
    latency, usage, warm = row.latency, row.memory, row.latency.warm_image
    return (
        row.environment.device, row.model, f"{row.target} {row.precision}", f"{row.height}x{row.width}",
        str(row.steps), "default" if row.threads is None else str(row.threads), row.loading, megabytes(row.download),
        seconds(latency.cold_load), seconds(latency.first_image), seconds(warm.median if warm else None),
        seconds(warm.p90 if warm else None), seconds(latency.cpu_per_image), megabytes(usage.peak_rss),
        megabytes(usage.peak_pss), "-" if row.drift is None else f"{row.drift.ratio:.2f}x", limit_text(row),
    )  # fmt: skip


def rows_table(rows: Sequence[Row]) -> Table:
    """Table with one column per row, because there are more metrics than rows."""
    table = Table("metric", box=box.SIMPLE, show_header=False)
    for _ in rows:
        table.add_column(justify="right", overflow="fold")
    for line in zip(HEADINGS, *(cells(row) for row in rows), strict=True):
        table.add_row(*line)
    return table


def limit_text(row: Row) -> str:
    """The memory limit of a row, and whether the process survived it."""
    if row.limit is None:
        return "-"
    ended = "survived" if row.limit.survived else "died"
    return f"{ended} under {megabytes(row.limit.bytes)} MB ({row.limit.mechanism})"


def seconds(value: float | None) -> str:
    """``value`` with three decimals."""
    return "-" if value is None else f"{value:.3f}"


def megabytes(count: int | None) -> str:
    """``count`` in units of 10^6 bytes, with one decimal."""
    return "-" if count is None else f"{count / MB:,.1f}"
