"""Plot and table of ``mf-bench against``."""

from __future__ import annotations

from rich.table import Table

from microforge_benchmarks.report.plots import BLUE, GREY, MB, figure, finish, png
from microforge_benchmarks.studies.baselines import BaselineReport


def baselines_table(report: BaselineReport) -> Table:
    """Table with one row per model, the bundle first."""
    table = Table("", "seconds per image", "x bundle", "quartiles", "peak MB", "compared for")
    for entry in report.entries:
        table.add_row(
            entry.name, f"{entry.seconds.median:.3f}", f"{entry.ratio:.2f}",
            f"{entry.ratio_low:.2f} to {entry.ratio_high:.2f}",
            "-" if entry.peak_rss is None else f"{entry.peak_rss / MB:,.0f}", entry.claim,
        )  # fmt: skip
    return table


def baselines_plot(report: BaselineReport) -> bytes:
    """Plot seconds per image and peak memory as bars, the bundle first; PNG bytes."""
    fig = figure(1.2 + 0.4 * len(report.entries))
    time, memory = fig.subplots(1, 2)
    seconds = [(entry.name, entry.seconds.median) for entry in report.entries]
    peaks = [(entry.name, entry.peak_rss / MB) for entry in report.entries if entry.peak_rss]
    for axes, title, bars, form in (
        (time, "Seconds per image", seconds, "{:,.3f}"),
        (memory, "Peak memory of the process, MB", peaks, "{:,.0f}"),
    ):
        names, heights = [name for name, _ in bars], [height for _, height in bars]
        colors = [BLUE if name == report.entries[0].name else GREY for name in names]
        axes.bar_label(axes.barh(names, heights, color=colors), fmt=form, padding=4)
        axes.margins(x=0.25)
        axes.invert_yaxis()
        finish(axes, title)
    fig.suptitle(
        f"{report.model} {report.precision}, {report.size}, {report.steps} steps, "
        f"threads: {report.threads}; other models: compute and memory only", fontsize=9,
    )  # fmt: skip
    return png(fig)
