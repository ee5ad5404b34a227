"""Tables of ``mf-bench profile``: for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from microforge_benchmarks.measure.processor_rates import LAYER, ProcessorRates
from microforge_benchmarks.studies.image_profile import ImageProfile

Row = tuple[str, str, str, str]
_HEAD: Row = ("operator", "nodes", "ms", "%")


def profile_rows(profile: ImageProfile, count: int) -> list[Row]:
    """The ``count`` slowest kinds of operators, the others together, and what is no operator; per image."""
    shown, rest = profile.kinds[:count], profile.kinds[count:]
    rows = [_row(profile, item.operator, item.nodes, item.seconds) for item in shown]
    if rest:
        nodes, seconds = sum(item.nodes for item in rest), sum(item.seconds for item in rest)
        rows.append(_row(profile, f"{len(rest)} other kinds", nodes, seconds))
    return [
        *rows,
        _row(profile, "between operators", None, profile.between_s),
        _row(profile, "outside the engine", None, profile.outside_s),
        _row(profile, "image", sum(item.nodes for item in profile.kinds), profile.image_s),
    ]


def _row(profile: ImageProfile, name: str, nodes: int | None, seconds: float) -> Row:
    share = 100.0 * seconds / profile.image_s
    return name, "-" if nodes is None else str(nodes), f"{1e3 * seconds:.2f}", f"{share:.1f}"


def title(profile: ImageProfile) -> str:
    """One line that says what was measured."""
    threads = "1 thread" if profile.threads == 1 else f"{profile.threads} threads"
    return f"{profile.target} {profile.precision}, {profile.size}, {threads}"


def profile_table(profile: ImageProfile, count: int) -> Table:
    """The rows for a terminal, with the bound as caption."""
    table = Table(*_HEAD, title=title(profile), caption=_bound_line(profile))
    for row in profile_rows(profile, count):
        table.add_row(*row)
    return table


def markdown(profiles: Sequence[ImageProfile], count: int) -> str:
    """Every profile as a table, then the rates of the processor."""
    parts = []
    for profile in profiles:
        lines = [f"{title(profile)}:", "", *_table(_HEAD, profile_rows(profile, count))]
        parts.append("\n".join(lines))
        if profile.bound_s is not None:
            parts.append(_bound_line(profile))
    measured = {item.rates.threads: item.rates for item in profiles if item.rates is not None}
    if measured:
        parts.append("\n".join(_rate_lines(list(measured.values()))))
    return "\n\n".join(parts) + "\n"


def _bound_line(profile: ImageProfile) -> str:
    if profile.bound_s is None:
        return ""
    limit = max(profile.bound_s.values())
    values = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in profile.bound_s.items())
    return f"Bound: {1e3 * limit:.2f} ms ({values}); reached: {100.0 * limit / profile.image_s:.0f} %."


def _rate_lines(rates: Sequence[ProcessorRates]) -> list[str]:
    kinds = list(rates[0].operations_s)
    head = ("rate", *("1 thread" if item.threads == 1 else f"{item.threads} threads" for item in rates))
    rows = [
        (f"{kind}, {what}, Gop/s", *(f"{getattr(item, field)[kind] / 1e9:,.0f}" for item in rates))
        for kind in kinds
        for what, field in (("1024^3", "operations_s"), (" x ".join(map(str, LAYER)), "layer_operations_s"))
    ]
    size = f"{rates[0].read_bytes / 1e6:.0f} MB"
    rows += [
        (f"reading {size}, {name}, GB/s", *(f"{item.bytes_s[name] / 1e9:.1f}" for item in rates))
        for name in rates[0].bytes_s
    ]
    return [f"{rates[0].processor}:", "", *_table(head, rows)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
