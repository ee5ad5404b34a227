"""One HTML page of a benchmark: the verdict first, then the table, the plots, projections and the environment.

The plots are files beside the page; nothing comes from elsewhere.
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
    from microforge_benchmarks.measure.roofline import Bound  # needs onnx, which a phone has not

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;display:block;overflow-x:auto;font-size:.85rem}"
    "td,th{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:left;white-space:nowrap}"
    ".cards{display:flex;flex-wrap:wrap;gap:1rem;margin:1rem 0}"
    ".cards div{flex:1 1 8rem;border:1px solid #ddd;border-radius:.5rem;padding:.6rem 1rem}"
    ".cards b{display:block;font-size:1.5rem}.verdict{font-size:1.2rem}"
    "img{max-width:100%}.yes{color:#1d7a3a}.no{color:#b02a2a}.note{color:#666;font-size:.9rem}"
)


#: 90th percentile over median from which the page warns about its own times.
BUSY = 1.2


@dataclass(frozen=True)
class Roof:
    """A roofline beside its rates' source; ``measured`` tells a machine's rates from a profile's assumptions."""

    name: str
    source: str
    bound: Bound
    measured: bool


@dataclass(frozen=True)
class Verdict:
    """One sentence, and whether it is good news."""

    good: bool
    text: str


def verdict(rows: Sequence[Row], device: DeviceProfile | None) -> Verdict:
    """What a reader wants to know first. The worst row decides."""
    for row in rows:
        if row.failure is not None:
            return Verdict(False, f"It failed: {limit_text(row)}; {row.failure}")
    peaks = [row.memory.peak_rss for row in rows if row.memory.peak_rss is not None]
    speed = _speed(rows)
    if not peaks:
        return Verdict(True, f"{speed}. Memory was not measured here.")
    peak = max(peaks)
    text = f"{speed}; the process needs {megabytes(peak)} MB at its peak"
    if device is None:
        return Verdict(True, f"{text}.")
    fits = peak <= device.budget_bytes
    room = f"the {megabytes(device.budget_bytes)} MB that an app may use of {device.name}"
    return Verdict(fits, f"{text}, {'within' if fits else 'more than'} {room}.")


def _speed(rows: Sequence[Row]) -> str:
    """Of the first row, which the page's figures are of, and of a quicker one beside it."""
    warm = [(row, row.latency.warm_image.median) for row in rows if row.latency.warm_image is not None]
    if not warm:
        return "No image was timed"
    best, least = min(warm, key=lambda pair: pair[1])
    beside = (
        ""
        if best is warm[0][0]
        else f" ({seconds(least)} s with {best.target}, threads: {best.threads or 'its choice'})"
    )
    return f"An image takes {seconds(warm[0][1])} s when warm{beside}"


def plots(rows: Sequence[Row], device: DeviceProfile | None) -> dict[str, bytes]:
    """PNG files by name: those of the first row, which stands for the rest."""
    row = rows[0]
    made = {
        "stages.png": stage_plot(row),
        "memory.png": memory_plot(row, device),
        "operators.png": operator_plot(row),
    }
    return {name: data for name, data in made.items() if data is not None}


_TITLES = {
    "stages.png": "Where the time goes",
    "memory.png": "Memory over time",
    "operators.png": "The slowest operators",
}


def page(
    rows: Sequence[Row], device: DeviceProfile | None, images: Mapping[str, bytes], roofs: Sequence[Roof]
) -> str:
    """The whole page; ``images`` are the files that lie beside it."""
    row, found = rows[0], verdict(rows, device)
    title = f"{row.model} at {row.height}x{row.width}, {row.steps} steps"
    figures = "".join(
        f"<h2>{_TITLES[name]}</h2><img src='{name}' alt='{_TITLES[name]}'>"
        for name in _TITLES
        if name in images
    )
    columns = [cells(item) for item in rows]
    lines = [(heading, *values) for heading, *values in zip(HEADINGS, *columns, strict=True)]
    heading = ("", *(f"{item.target} {item.precision}" for item in rows))
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{_text(title)}</title>"
        f"<style>{_STYLE}</style><h1>{_text(title)}</h1>"
        f"<p class='verdict {'yes' if found.good else 'no'}'><strong>{_text(found.text)}</strong></p>"
        f"{_cards(row)}{_caution(rows)}{figures}"
        f"<h2>Measured</h2>{_table(heading, lines)}"
        f"{_rooflines(row, roofs)}<h2>Environment</h2>{_environment(row)}</html>\n"
    )


def _cards(row: Row) -> str:
    """The figures of the first row that a phone's user would notice."""
    latency = row.latency
    facts = {
        "warm image, s": seconds(latency.warm_image.median if latency.warm_image else None),
        "first image, s": seconds(latency.first_image),
        "peak memory, MB": megabytes(row.memory.peak_rss),
        "download, MB": megabytes(row.download),
    }
    return f"<div class='cards'>{''.join(f'<div><b>{value}</b>{name}</div>' for name, value in facts.items())}</div>"


def _caution(rows: Sequence[Row]) -> str:
    """A sentence where the spread of the times says that something else used the machine."""
    spreads = [row.latency.warm_image for row in rows if row.latency.warm_image is not None]
    worst = max((item.p90 / item.median for item in spreads if item.median > 0), default=1.0)
    if worst < BUSY:
        return ""
    words = f"One image in ten took {worst:.1f} times the median or more: the machine was busy or throttled."
    return f"<p class='note'>{words} Measure again before you quote these times.</p>"


def _rooflines(row: Row, roofs: Sequence[Roof]) -> str:
    if not roofs:
        return ""
    heading = ("machine", "least s, fp32", "bound by", "least s, int8", "bound by", "rates")
    lines = [
        (
            f"{roof.name} ({'rates measured' if roof.measured else 'projection'})", seconds(roof.bound.fp32_s),
            roof.bound.fp32_bound_by, seconds(roof.bound.int8_s), roof.bound.int8_bound_by, roof.source,
        )
        for roof in roofs
    ]  # fmt: skip
    cost = roofs[0].bound.cost
    note = (
        f"One image is {cost.products / 1e9:,.2f} G operations in products and {cost.moved / 1e6:,.0f} MB moved, "
        f"without fusion. Projections are computed from assumed rates; nothing ran on those devices."
    )
    return f"<h2>Roofline</h2>{_table(heading, lines)}<p class='note'>{_text(note)}{_text(_fraction(row, roofs))}</p>"


def _fraction(row: Row, roofs: Sequence[Roof]) -> str:
    """How far the measured time is from this machine's least one, which another precision has too."""
    warm, here = row.latency.warm_image, next((roof for roof in roofs if roof.measured), None)
    if warm is None or here is None or warm.median <= 0:
        return ""
    least = here.bound.int8_s if row.precision == "int8" else here.bound.fp32_s
    return (
        f" The warm image reaches {least / warm.median:.0%} of this machine's roofline for {row.precision}."
    )


def _environment(row: Row) -> str:
    place = row.environment
    facts = {
        "device": place.device, "system": place.system, "processor": place.processor, "cores": str(place.cores),
        "RAM": f"{megabytes(place.ram)} MB", "engine": f"{place.engine} {place.engine_version}",
        "runtime": place.runtime, "bundle": row.bundle, "measured": row.created,
    }  # fmt: skip
    return _table(("what", "value"), list(facts.items()))


def _table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{_text(word)}</th>" for word in heading)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f"<table><tr>{top}</tr>{body}</table>"


def _text(words: str) -> str:
    return html.escape(words)
