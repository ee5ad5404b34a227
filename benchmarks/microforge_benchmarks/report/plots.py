"""Plots of the benchmark report, as PNG bytes."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import TYPE_CHECKING

from microforge.bundle.devices import DeviceProfile
from microforge.bundle.measurements import Row
from microforge.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MB = 1_000_000
TOP = 12
BLUE, GREEN, RED, VIOLET, GREY = "#3b6ea5", "#5f9e6e", "#c0392b", "#7f3fbf", "#b8c0c8"


def stage_plot(row: Row) -> bytes | None:
    """Plot the median time of every stage of a warm image; None without measurements."""
    if not row.latency.stages:
        return None
    medians = {name: stage.median * 1000 for name, stage in row.latency.stages.items()}
    whole = sum(medians.values()) or 1.0
    fig = figure(2.2)
    axes = fig.subplots()
    bars = axes.barh([name.replace("_", " ") for name in medians], list(medians.values()), color=BLUE)
    labels = [f"{value:,.1f} ms, {value / whole:.0%}" for value in medians.values()]
    axes.bar_label(bars, labels=labels, padding=4)
    axes.set_xlim(0, max(medians.values()) * 1.25)
    axes.invert_yaxis()
    finish(axes, f"Stages of a warm image, median of {next(iter(row.latency.stages.values())).count}", "ms")
    return png(fig)


def memory_plot(row: Row, device: DeviceProfile | None) -> bytes | None:
    """Plot resident memory over time, and its peak with the budget of ``device``; None without samples."""
    if not row.memory.timeline:
        return None
    fig = figure(3.4)
    axes, peak_axes = fig.subplots(1, 2, width_ratios=(3, 1))
    times, resident = zip(*row.memory.timeline, strict=True)
    axes.fill_between(times, [count / MB for count in resident], color=BLUE, alpha=0.25)
    axes.plot(times, [count / MB for count in resident], color=BLUE, label="process")
    if row.memory.base is not None:
        base = row.memory.base / MB
        axes.axhline(base, color=GREY, linestyle="--", label="engine and tokenizer, no network")
    highest = max(resident)
    if (
        device is not None and device.budget_bytes < 3 * highest
    ):  # a much higher budget would flatten the curve
        axes.axhline(device.budget_bytes / MB, color=RED, linestyle="--", label=f"budget of {device.name}")
        highest = max(highest, device.budget_bytes)
    axes.set_ylim(0, highest / MB * 1.25)
    axes.legend(loc="lower right", frameon=False)
    finish(axes, "Resident memory, two images", "seconds since the first stage", "MB")
    _peak_bars(peak_axes, row, device)
    return png(fig)


def _peak_bars(axes: Axes, row: Row, device: DeviceProfile | None) -> None:
    """Plot the peak as a bar, with the limits that apply to it."""
    heights = {"peak": (row.memory.peak_rss or max(rss for _, rss in row.memory.timeline), BLUE)}
    if device is not None:
        heights[f"budget of\n{device.name}"] = (device.budget_bytes, GREY)
    if row.limit is not None:
        heights["enforced\nlimit"] = (row.limit.bytes, VIOLET)
    bars = axes.bar(
        list(heights), [count / MB for count, _ in heights.values()], color=[color for _, color in heights.values()]
    )  # fmt: skip
    axes.bar_label(bars, fmt="{:,.0f}", padding=2)
    axes.margins(y=0.15)
    axes.tick_params(axis="x", labelsize=8)
    finish(axes, "Peak, MB")


def operator_plot(row: Row) -> bytes | None:
    """Plot the slowest kinds of operators in one evaluation of their component; None without a profile."""
    if not row.operators:
        return None
    seconds: dict[str, float] = defaultdict(float)
    for item in row.operators:
        seconds[f"{item.operator}, {item.component.replace('_', ' ')}"] += item.seconds
    slowest = sorted(seconds, key=lambda name: -seconds[name])[:TOP]
    fig = figure(1.0 + 0.3 * len(slowest))
    axes = fig.subplots()
    bars = axes.barh(slowest, [seconds[name] * 1000 for name in slowest], color=GREEN)
    axes.bar_label(bars, fmt="{:,.2f}", padding=4)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    finish(axes, "Slowest operators, one evaluation of the component", "ms")
    return png(fig)


def figure(height: float) -> Figure:
    """Create an empty matplotlib figure with the width of the report and a ``height`` in inches.

    Raises:
        MissingExtraError: when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "bench") from None
    return Figure(figsize=(8.0, height), dpi=120, layout="constrained")


def finish(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Set title and labels, and remove the box around the data."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def png(fig: Figure) -> bytes:
    """Encode ``fig`` as a PNG file."""
    stream = io.BytesIO()
    fig.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
