"""Plot and table of ``mf-bench scaling``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from microforge_benchmarks.measure.random_bundles import SSMForm
from microforge_benchmarks.report.plots import BLUE, GREEN, GREY, MB, VIOLET, figure, finish, png
from microforge_benchmarks.studies.scaling import ScalingPoint, ScalingReport

#: Form of the SSM -> label and colour.
_STYLES: dict[SSMForm, tuple[str, str]] = {
    "preset": ("as shipped", BLUE),
    "dense": ("dense", VIOLET),
    "chunked": ("chunked", GREEN),
    "linear": ("chunked, no shared attention", GREY),
}


def scaling_plot(report: ScalingReport) -> bytes:
    """Plot the time of a denoiser step and its peak memory against tokens, one line per form of the SSM; PNG bytes."""
    fig = figure(4.0)  # raises an error that names the extra, so it comes before the import of matplotlib
    from matplotlib.ticker import LogFormatter

    time, memory = fig.subplots(1, 2)
    for form, points in _by_form(report.points).items():
        label, color = _STYLES[form]
        power = report.exponents[form].denoiser_step
        name = label if power is None else f"{label}: N^{power:.2f}"
        tokens = [point.tokens for point in points]
        time.plot(
            tokens, [point.denoiser_step * 1000 for point in points], marker="o", color=color, label=name
        )
        peaks = [(point.tokens, point.denoiser_rss / MB) for point in points if point.denoiser_rss]
        if peaks:
            memory.plot(*zip(*peaks, strict=True), marker="o", color=color, label=label)
    if report.crossover_tokens is not None:
        label = f"crossover: {report.crossover_tokens:.0f}"
        time.axvline(report.crossover_tokens, color=GREY, linestyle="--", label=label)
    counts = sorted({point.tokens for point in report.points})
    for axes in (time, memory):
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts], rotation=45)
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize="small")
    time.set_yscale("log")
    for set_formatter in (time.yaxis.set_major_formatter, time.yaxis.set_minor_formatter):
        set_formatter(LogFormatter())  # 60, not 6 x 10^1
    memory.set_ylim(bottom=0)
    finish(time, f"{report.config}: one denoiser step", "latent tokens N", "ms")
    finish(memory, "Peak of the process, denoiser running", "latent tokens N", "MB")
    return png(fig)


def scaling_table(report: ScalingReport) -> Table:
    """Table with one row per point."""
    table = Table("SSM", "px", "tokens", "image s", "step ms", "decoder ms", "peak MB")
    for point in report.points:
        peak = "-" if point.peak_rss is None else f"{point.peak_rss / MB:,.1f}"
        table.add_row(
            _STYLES[point.form][0], str(point.side), str(point.tokens), f"{point.image:.3f}",
            f"{point.denoiser_step * 1000:.1f}", f"{point.decoder * 1000:.1f}", peak,
        )  # fmt: skip
    return table


def _by_form(points: Sequence[ScalingPoint]) -> dict[SSMForm, list[ScalingPoint]]:
    groups: dict[SSMForm, list[ScalingPoint]] = {}
    for point in points:
        groups.setdefault(point.form, []).append(point)
    return groups
