"""The table that ``mf-eval`` prints on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from microforge.evaluation.scores import Accuracy, GenerationScores
from microforge_benchmarks.evaluate.reports import GenerationReport
from microforge_benchmarks.evaluate.source_tasks import interval, percent

#: KID is printed in thousandths.
_KID_SCALE = 1000


def print_generation_table(report: GenerationReport) -> None:
    """Print the scores of the model and of the ceilings by category and fact, then KID and planner metrics."""
    ceilings = list(report.ceilings.values())
    headings = (name.replace("_", " ") for name in report.ceilings)
    table = Table("", "accuracy", "95 % interval", "of", *headings)
    for name, rate, bounds in _overall_rows(report.scores, ceilings):
        _add_row(table, name, rate, bounds)
    table.add_section()
    for name, rate in report.scores.categories.items():
        _add_row(table, name, rate, [ceiling.categories[name] for ceiling in ceilings])
    table.add_section()
    for name, rate in report.scores.facts.items():
        _add_row(table, f"{name} (fact)", rate, [ceiling.facts[name] for ceiling in ceilings])
    table.add_section()
    for line in _other_rows(report):
        table.add_row(*line)
    Console(stderr=True).print(table)


def _overall_rows(
    scores: GenerationScores, ceilings: Sequence[GenerationScores]
) -> Iterator[tuple[str, Accuracy, list[Accuracy]]]:
    yield "overall", scores.overall, [ceiling.overall for ceiling in ceilings]
    yield "seen", scores.split.seen.overall, [ceiling.split.seen.overall for ceiling in ceilings]
    yield "held out", scores.split.held_out.overall, [ceiling.split.held_out.overall for ceiling in ceilings]


def _add_row(table: Table, name: str, rate: Accuracy, bounds: Sequence[Accuracy]) -> None:
    if rate.total:  # single-object prompts have no split
        label = name.replace("_", " ")
        table.add_row(label, percent(rate), interval(rate), str(rate.total), *map(percent, bounds))


def _other_rows(report: GenerationReport) -> Iterator[tuple[str, ...]]:
    """Rows that are not percentages: KID with its floor and the autoencoder's, and the planner's metrics."""
    if report.kid is not None:
        bounds = "-"
        if report.kid.stderr is not None:
            low, high = (report.kid.value + z * report.kid.stderr for z in (-1.96, 1.96))
            bounds = f"{_KID_SCALE * low:.1f} to {_KID_SCALE * high:.1f}"
        distances = (report.kid, report.kid.floor, report.kid.vae_round_trip)
        value, *others = (f"{_KID_SCALE * one.value:.1f}" for one in distances if one is not None)
        yield f"KID x {_KID_SCALE}", value, bounds, str(report.prompts), *others
    if report.planner is not None:
        count = str(report.planner.prompts)
        yield "plan cosine", f"{report.planner.mean_cosine:.3f}", "-", count
        yield "plan memory", f"{report.planner.self_conditioning_change:.4f}", "-", count
