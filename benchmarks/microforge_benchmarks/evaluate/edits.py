"""``mf-eval --task``: how well a model edits, inpaints or super-resolves, beside what could be reached at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from microforge.data.edit_examples import SOURCE_TASKS, Triples
from microforge.errors import BundleError, SpecError
from microforge.evaluation.edit_contact_sheet import Collector, triple_sheet
from microforge.evaluation.editing import DrawTriples, EditRun, evaluate_task
from microforge_benchmarks.evaluate.subjects import Subject

#: Images drawn at a time: small, so that the progress bar moves.
BATCH = 8


def check_task(task: str, single_object: bool, masked: bool) -> None:
    """Refuse an unknown task, and options that belong to another one.

    Raises:
        SpecError: names what is allowed.
    """
    if task not in ("generate", *SOURCE_TASKS):
        raise SpecError(f"--task is {task!r}; allowed: generate, {', '.join(SOURCE_TASKS)}")
    if single_object and task != "generate":
        raise SpecError(f"--single-object belongs to --task generate, not to {task}")
    if masked and task != "edit":
        raise SpecError(f"--masked belongs to --task edit, not to {task}")


def evaluate_source_task(
    subject: Subject, task: str, count: int, seed: int, masked: bool = False
) -> tuple[dict[str, Any], Image.Image]:
    """The report of ``count`` examples of ``task``, and their contact sheet; prints a table on stderr.

    ``masked``: each edit is told where it may draw. ``ceilings`` has the same figures of true targets and, where there
    is an encoder, of true targets after the VAE: what is missing there is the oracle's or the VAE's.

    Raises:
        BundleError: for a model without this task.
    """
    draw_task = subject.draw_triples
    if task not in subject.tasks or draw_task is None:
        raise BundleError(f"this {subject.kind} cannot {task}; its tasks: {', '.join(subject.tasks)}")
    run = EditRun(count, (subject.height, subject.width), seed, BATCH, masked=masked)
    collector = Collector(count)
    with _progress(count) as (progress, bar):

        def draw(found: Triples, first: int) -> Tensor:
            images = draw_task(task, found, first)
            progress.start()
            progress.advance(bar, len(found.texts))
            return images

        scores = evaluate_task(task, draw, replace(run, watch=collector.watch))
    ceilings = {name: evaluate_task(task, ceiling, run) for name, ceiling in _ceilings(subject, task)}
    report = {
        "kind": subject.kind, "identity": subject.identity, "task": task, "size": [subject.height, subject.width],
        "steps": subject.steps, "guidance": subject.guidance, "seed": seed, "examples": count,
        **({"masked": True} if masked else {}), "scores": scores, "ceilings": ceilings,
    }  # fmt: skip
    _print_table(report)
    return report, triple_sheet(collector.examples)


def _ceilings(subject: Subject, task: str) -> Iterator[tuple[str, DrawTriples]]:
    yield "true_targets", lambda found, seed: found.targets
    round_trip = subject.round_trip
    if (
        round_trip is not None and task != "inpaint"
    ):  # inpaint's result is composited: the VAE touches the hole alone
        yield "vae_round_trip", lambda found, seed: round_trip(found.targets)


@contextmanager
def _progress(count: int) -> Iterator[tuple[Progress, TaskID]]:
    """A progress display on stderr that stays silent about a command that fails before its first image."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    try:
        yield progress, progress.add_task("images", total=count)
    finally:
        if progress.live.is_started:
            progress.stop()


def _print_table(report: dict[str, Any]) -> None:
    mine, others = dict(_rows(report["scores"])), [dict(_rows(one)) for one in report["ceilings"].values()]
    table = Table(report["task"], "model", *(name.replace("_", " ") for name in report["ceilings"]))
    for name, value in mine.items():
        table.add_row(name, value, *(other.get(name, "-") for other in others))
    Console(stderr=True).print(table)


def _rows(scores: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every figure of ``scores`` with its name, as text."""
    for key, value in scores.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict) and "accuracy" in value:
            if value["total"]:
                yield (
                    name,
                    f"{100 * value['accuracy']:.1f} % ({100 * value['low']:.1f} - {100 * value['high']:.1f}) of {value['total']}",
                )
        elif isinstance(value, dict):
            yield from _rows(value, f"{key}: ")
        elif isinstance(value, bool):
            yield name, "yes" if value else "no"
        else:
            yield name, "-" if value is None else f"{value:.4g}"
