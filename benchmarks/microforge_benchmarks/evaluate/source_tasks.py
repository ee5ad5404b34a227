"""``mf-eval --task``: scores of a task with a source image, with the ceilings that true targets reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from microforge.data.edit_examples import SOURCE_TASKS, Triples
from microforge.errors import BundleError, SpecError
from microforge.evaluation.edit_contact_sheet import ExampleCollector, triple_sheet
from microforge.evaluation.editing import TaskEvaluation, TaskGenerator, evaluate_task
from microforge.evaluation.scores import Accuracy
from microforge_benchmarks.evaluate.model_under_test import ModelUnderTest
from microforge_benchmarks.evaluate.progress import image_progress
from microforge_benchmarks.evaluate.reports import FORMAT, TaskReport

#: Images that are generated at a time; a small batch keeps the progress bar moving.
BATCH = 8


def check_task(task: str, single_object: bool, masked: bool) -> None:
    """Refuse an unknown task, and options that belong to another task.

    Raises:
        SpecError: when the task is unknown, or an option does not belong to it.
    """
    if task not in ("generate", *SOURCE_TASKS):
        raise SpecError(f"--task is {task!r}; allowed: generate, {', '.join(SOURCE_TASKS)}")
    if single_object and task != "generate":
        raise SpecError(f"--single-object belongs to --task generate, not to {task}")
    if masked and task != "edit":
        raise SpecError(f"--masked belongs to --task edit, not to {task}")


def evaluate_source_task(
    model: ModelUnderTest, name: str, task: str, count: int, seed: int, masked: bool = False
) -> tuple[TaskReport, Image.Image]:
    """Evaluate ``count`` examples of ``task``, with a progress bar on stderr.

    The ceilings are the scores of true targets and, where the model has an encoder, of true targets after a round trip
    of the autoencoder. What is missing there is due to the detector or the autoencoder.

    Args:
        model: the model under test.
        name: path of the model, for the report.
        task: one of ``SOURCE_TASKS``.
        count: number of examples.
        seed: seed of the examples, and of the first image.
        masked: edit: give the model a mask of the pixels that change.

    Returns:
        The report, and a contact sheet of the examples.

    Raises:
        BundleError: when the model does not have this task.
    """
    generate_task = model.generate_task
    if task not in model.tasks or generate_task is None:
        raise BundleError(f"this {model.kind} cannot {task}; its tasks: {', '.join(model.tasks)}")
    settings = TaskEvaluation(count, model.size, seed, BATCH, masked=masked)
    collector = ExampleCollector(count)
    with image_progress() as progress:
        bar = progress.add_task("images", total=count)

        def generate(examples: Triples, first_seed: int) -> Tensor:
            images = generate_task(task, examples, first_seed)
            progress.start()
            progress.advance(bar, len(examples.texts))
            return images

        scores = evaluate_task(task, generate, replace(settings, on_batch=collector.add_batch))
    ceilings = {name: evaluate_task(task, ceiling, settings) for name, ceiling in _ceilings(model, task)}
    report = TaskReport(
        FORMAT, name, model.kind, model.identity, task, model.size, model.steps, model.guidance, seed, count, masked,
        scores, ceilings,
    )  # fmt: skip
    return report, triple_sheet(collector.examples)


def _ceilings(model: ModelUnderTest, task: str) -> Iterator[tuple[str, TaskGenerator]]:
    yield "true_targets", lambda examples, seed: examples.targets
    round_trip = model.round_trip
    # Inpainting composites its result with the source, so the autoencoder affects the masked pixels alone.
    if round_trip is not None and task != "inpaint":
        yield "vae_round_trip", lambda examples, seed: round_trip(examples.targets)


def print_task_table(report: TaskReport) -> None:
    """Print the scores of the model and of the ceilings as a table on stderr."""
    columns = [dict(_score_rows(scores)) for scores in (report.scores, *report.ceilings.values())]
    table = Table(report.task, "model", *(name.replace("_", " ") for name in report.ceilings))
    for name in columns[0]:
        table.add_row(name, *(column.get(name, "-") for column in columns))
    Console(stderr=True).print(table)


def _score_rows(scores: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and text of every metric in ``scores``, a dataclass or a mapping."""
    if is_dataclass(scores):
        items = [(field.name, getattr(scores, field.name)) for field in fields(scores)]
    else:
        items = list(scores.items()) if isinstance(scores, dict) else []
    for key, value in items:
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Accuracy):
            if value.accuracy is not None:
                yield name, f"{percent(value)} ({interval(value)}) of {value.total}"
        elif is_dataclass(value) or isinstance(value, dict):
            yield from _score_rows(value, f"{key}: ")
        elif isinstance(value, bool):
            yield name, "yes" if value else "no"
        else:
            yield name, "-" if value is None else f"{value:.4g}"


def percent(rate: Accuracy) -> str:
    """The accuracy in percent; "-" without examples."""
    return "-" if rate.accuracy is None else f"{100 * rate.accuracy:.1f} %"


def interval(rate: Accuracy) -> str:
    """The 95 % interval in percent."""
    return f"{100 * rate.low:.1f} - {100 * rate.high:.1f}"
