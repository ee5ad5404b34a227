"""The HTML report of a benchmark: a headline, measurements, plots, rooflines and the environment, on one page.

The plots are files beside the page; the page loads nothing from other places.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microforge.bundle.devices import DeviceProfile
from microforge.bundle.measurements import Row
from microforge_benchmarks.report.plots import memory_plot, operator_plot, stage_plot
from microforge_benchmarks.report.table import HEADINGS, cells, limit_text, megabytes, seconds

if TYPE_CHECKING:
    from microforge_benchmarks.measure.roofline import RooflineBound  # needs onnx, which phones do not have

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;display:block;overflow-x:auto;font-size:.85rem}"
    "td,th{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:left;white-space:nowrap}"
    ".cards{display:flex;flex-wrap:wrap;gap:1rem;margin:1rem 0}"
    ".cards div{flex:1 1 8rem;border:1px solid #ddd;border-radius:.5rem;padding:.6rem 1rem}"
    ".cards b{display:block;font-size:1.5rem}.headline{font-size:1.2rem}"
    "img{max-width:100%}.yes{color:#1d7a3a}.no{color:#b02a2a}.note{color:#666;font-size:.9rem}"
)
#: Ratio of the 90th percentile to the median from which the page warns about disturbed measurements.
BUSY = 1.2


@dataclass(frozen=True)
class RooflineRow:
    """Roofline of one machine; ``measured`` distinguishes measured rates from the assumptions of a profile."""

    name: str
    source: str
    bound: RooflineBound
    measured: bool


@dataclass(frozen=True)
class Headline:
    """The first sentence of the report, and whether the result is good."""

    good: bool
    text: str


def headline(rows: Sequence[Row], device: DeviceProfile | None) -> Headline:
    """Summarize ``rows`` in one sentence; a failed row, else the highest peak of memory, decides."""
    for row in rows:
        if row.failure is not None:
            return Headline(False, f"It failed: {limit_text(row)}; {row.failure}")
    peaks = [row.memory.peak_rss for row in rows if row.memory.peak_rss is not None]
    speed = _speed(rows)
    if not peaks:
        return Headline(True, f"{speed}. Memory was not measured here.")
    peak = max(peaks)
    text = f"{speed}; the process needs {megabytes(peak)} MB at its peak"
    if device is None:
        return Headline(True, f"{text}.")
    fits = peak <= device.budget_bytes
    budget = f"the {megabytes(device.budget_bytes)} MB that an app may use of {device.name}"
    return Headline(fits, f"{text}, {'within' if fits else 'more than'} {budget}.")


def _speed(rows: Sequence[Row]) -> str:
    """Time of a warm image in the first row, and in a faster row if there is one."""
    warm = [(row, row.latency.warm_image.median) for row in rows if row.latency.warm_image is not None]
    if not warm:
        return "No image was timed"
    fastest, least = min(warm, key=lambda pair: pair[1])
    text = f"An image takes {seconds(warm[0][1])} s when warm"
    if fastest is warm[0][0]:
        return text
    return f"{text} ({seconds(least)} s with {fastest.target}, threads: {fastest.threads or 'the default'})"


def plots(rows: Sequence[Row], device: DeviceProfile | None) -> dict[str, bytes]:
    """PNG files of the first row's plots by name."""
    row = rows[0]
    images = {
        "stages.png": stage_plot(row),
        "memory.png": memory_plot(row, device),
        "operators.png": operator_plot(row),
    }
    return {name: data for name, data in images.items() if data is not None}


_TITLES = {
    "stages.png": "Time of each stage",
    "memory.png": "Memory over time",
    "operators.png": "The slowest operators",
}


def page(
    rows: Sequence[Row],
    device: DeviceProfile | None,
    images: Mapping[str, bytes],
    rooflines: Sequence[RooflineRow],
) -> str:
    """HTML of the whole page; ``images`` are the files beside it."""
    row, first = rows[0], headline(rows, device)
    title = f"{row.model} at {row.height}x{row.width}, {row.steps} steps"
    pictures = "".join(
        f"<h2>{_TITLES[name]}</h2><img src='{name}' alt='{_TITLES[name]}'>"
        for name in _TITLES
        if name in images
    )
    columns = [cells(item) for item in rows]
    lines = [(heading, *values) for heading, *values in zip(HEADINGS, *columns, strict=True)]
    heading = ("", *(f"{item.target} {item.precision}" for item in rows))
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{_escaped(title)}</title>"
        f"<style>{_STYLE}</style><h1>{_escaped(title)}</h1>"
        f"<p class='headline {'yes' if first.good else 'no'}'><strong>{_escaped(first.text)}</strong></p>"
        f"{_cards(row)}{_warning(rows)}{pictures}"
        f"<h2>Measured</h2>{_table(heading, lines)}"
        f"{_rooflines(row, rooflines)}<h2>Environment</h2>{_environment(row)}</html>\n"
    )


def _cards(row: Row) -> str:
    """The metrics of the first row that a user of a phone would notice."""
    latency = row.latency
    metrics = {
        "warm image, s": seconds(latency.warm_image.median if latency.warm_image else None),
        "first image, s": seconds(latency.first_image),
        "peak memory, MB": megabytes(row.memory.peak_rss),
        "download, MB": megabytes(row.download),
    }
    cards = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in metrics.items())
    return f"<div class='cards'>{cards}</div>"


def _warning(rows: Sequence[Row]) -> str:
    """A warning when the spread of the times shows that other programs used the machine."""
    spreads = [row.latency.warm_image for row in rows if row.latency.warm_image is not None]
    worst = max((item.p90 / item.median for item in spreads if item.median > 0), default=1.0)
    if worst < BUSY:
        return ""
    text = f"One image in ten took {worst:.1f} times the median or more: the machine was busy or throttled."
    return f"<p class='note'>{text} Measure again before you quote these times.</p>"


def _rooflines(row: Row, rooflines: Sequence[RooflineRow]) -> str:
    if not rooflines:
        return ""
    heading = ("machine", "lower bound s, fp32", "limited by", "lower bound s, int8", "limited by", "rates")
    lines = [
        (
            f"{item.name} ({'rates measured' if item.measured else 'projection'})", seconds(item.bound.fp32_s),
            item.bound.fp32_bound_by, seconds(item.bound.int8_s), item.bound.int8_bound_by, item.source,
        )
        for item in rooflines
    ]  # fmt: skip
    cost = rooflines[0].bound.cost
    note = (
        f"One image needs {cost.products / 1e9:,.2f} G operations in products and moves {cost.moved / 1e6:,.0f} MB "
        f"without fusion. Projections use assumed rates; nothing ran on those devices."
    )
    share = _share_of_roofline(row, rooflines)
    return f"<h2>Roofline</h2>{_table(heading, lines)}<p class='note'>{_escaped(note)}{_escaped(share)}</p>"


def _share_of_roofline(row: Row, rooflines: Sequence[RooflineRow]) -> str:
    """The lower bound of this machine as a share of the measured time."""
    warm, machine = row.latency.warm_image, next((item for item in rooflines if item.measured), None)
    if warm is None or machine is None or warm.median <= 0:
        return ""
    bound = machine.bound.int8_s if row.precision == "int8" else machine.bound.fp32_s
    return (
        f" The warm image reaches {bound / warm.median:.0%} of this machine's roofline for {row.precision}."
    )


def _environment(row: Row) -> str:
    environment = row.environment
    facts = {
        "device": environment.device, "system": environment.system, "processor": environment.processor,
        "cores": str(environment.cores), "RAM": f"{megabytes(environment.ram)} MB",
        "engine": f"{environment.engine} {environment.engine_version}", "runtime": environment.runtime,
        "bundle": row.bundle, "measured": row.created,
    }  # fmt: skip
    return _table(("", "value"), list(facts.items()))


def _table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_escaped(word)}</th>" for word in heading)
    body = "".join(f"<tr>{''.join(f'<td>{_escaped(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f"<table><tr>{head}</tr>{body}</table>"


def _escaped(text: str) -> str:
    return html.escape(text)
