"""How ``mf-bench scaling`` shows its points: a PNG with two panels, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from microforge_benchmarks.report.plots import BLUE, GREEN, GREY, MB, VIOLET, figure, finish, png

_LOOKS = {
    "preset": ("as shipped", BLUE),
    "dense": ("dense", VIOLET),
    "chunked": ("chunked", GREEN),
    "linear": ("chunked, no shared attention", GREY),
}


def scaling_plot(values: Mapping[str, Any]) -> bytes:
    """Time of a denoiser step and peak memory against tokens, one line per form of the SSM."""
    fig = figure(4.0)  # says which extra is missing
    from matplotlib.ticker import LogFormatter

    time, memory = fig.subplots(1, 2)
    for form, points in _by_form(values["points"]).items():
        label, color = _LOOKS[form]
        power = values["exponents"][form]["denoiser_step"]
        name = label if power is None else f"{label}: N^{power:.2f}"
        tokens = [point["tokens"] for point in points]
        steps = [point["denoiser_step"] * 1000 for point in points]
        time.plot(tokens, steps, marker="o", color=color, label=name)
        held = [(point["tokens"], point["denoiser_rss"] / MB) for point in points if point["denoiser_rss"]]
        if held:
            memory.plot(*zip(*held, strict=True), marker="o", color=color, label=label)
    if values["crossover_tokens"] is not None:
        time.axvline(
            values["crossover_tokens"],
            color=GREY,
            linestyle="--",
            label=f"crossover: {values['crossover_tokens']:.0f}",
        )
    counts = sorted({point["tokens"] for point in values["points"]})
    for axes in (time, memory):
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts], rotation=45)
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize="small")
    time.set_yscale("log")
    for set_formatter in (time.yaxis.set_major_formatter, time.yaxis.set_minor_formatter):
        set_formatter(LogFormatter())  # 60, not 6 x 10^1
    memory.set_ylim(bottom=0)
    finish(time, f"{values['config']}: one denoiser step", "latent tokens N", "ms")
    finish(memory, "Peak of the process, denoiser running", "latent tokens N", "MB")
    return png(fig)


def scaling_table(values: Mapping[str, Any]) -> Table:
    """One row per point."""
    table = Table("SSM", "px", "tokens", "image s", "step ms", "decoder ms", "peak MB")
    for point in values["points"]:
        held = "-" if point["peak_rss"] is None else f"{point['peak_rss'] / MB:,.1f}"
        table.add_row(
            _LOOKS[point["form"]][0], str(point["side"]), str(point["tokens"]), f"{point['image']:.3f}",
            f"{point['denoiser_step'] * 1000:.1f}", f"{point['decoder'] * 1000:.1f}", held,
        )  # fmt: skip
    return table


def _by_form(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        found.setdefault(point["form"], []).append(point)
    return found
