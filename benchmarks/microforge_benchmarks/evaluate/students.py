"""Command line of the comparison of distilled students with their teacher.

    python -m microforge_benchmarks.evaluate.students TEACHER STUDENT... --prompts 500 --out compare.json

All models generate images for the same prompts from the same noise. The reference is the teacher with its native steps
and guidance; the teacher at each student's number of steps is compared as well. The command writes JSON, and a plot
beside it. Heavy packages are imported inside the command.
"""

from __future__ import annotations

import io
import json as json_module
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microforge.errors import OutputError, missing_extra
from microforge.io.console import command_app, print_json, run

if TYPE_CHECKING:
    from microforge_benchmarks.evaluate.student_comparison import StudentScores

app = command_app("Compare distilled students with their teacher.")
FORMAT = 2
EXAMPLE = (
    "Example: python -m microforge_benchmarks.evaluate.students pretrained runs/nano-4 --out compare.json"
)


@app.command(epilog=EXAMPLE)
def main(
    teacher: Annotated[Path, typer.Argument(help="Checkpoint of the teacher; pretrained for the shipped one.")],
    students: Annotated[list[Path], typer.Argument(help="Checkpoints made by mf-export distill.")],
    out: Annotated[Path, typer.Option(help="JSON file to write; the plot is written beside it (.png).")],
    prompts: Annotated[int, typer.Option(min=2, help="Number of prompts.")] = 500,
    examples: Annotated[int, typer.Option(min=0, help="Number of examples of each task with a source image.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the prompts, and of the first image.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as the last line of stdout.")] = False,
) -> None:  # fmt: skip
    """Generate images for the same prompts from the same noise with all models, and compare them."""
    from microforge.checkpoint import SHIPPED_TEACHER
    from microforge.io.atomic import atomic_bytes, check_output
    from microforge_benchmarks.evaluate.student_comparison import compare_students, compared_models

    if out.suffix.lower() != ".json":
        raise OutputError(f"--out is {out}; the scores are JSON, give a name that ends in .json")
    for path in (out, out.with_suffix(".png")):
        check_output(path, force)
    folder = SHIPPED_TEACHER if str(teacher) == "pretrained" else teacher
    scores = compare_students(compared_models(folder, students), prompts, seed, examples)
    report = {
        "format": FORMAT, "prompts": prompts, "seed": seed, "examples": examples,
        "models": {name: asdict(entry) for name, entry in scores.items()},
    }  # fmt: skip
    atomic_bytes(out.with_suffix(".png"), comparison_plot(scores), force)
    atomic_bytes(out, (json_module.dumps(report, indent=1) + "\n").encode(), force)
    _print_table(scores)
    if json:
        print_json(report)
    else:
        print(out.absolute())


def comparison_plot(scores: Mapping[str, StudentScores]) -> bytes:
    """Plot accuracy with its 95 % interval, and PSNR to the first model, as one bar per model; PNG bytes."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "bench") from None
    figure = Figure(figsize=(8.5, 1.2 + 0.35 * len(scores)), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    counts = {name: round(entry.evaluations) for name, entry in scores.items()}
    labels = [f"{name} ({count} evaluation{'' if count == 1 else 's'})" for name, count in counts.items()]
    rates = [entry.accuracy for entry in scores.values()]
    shares = [100 * (rate.accuracy or 0.0) for rate in rates]
    ends = (
        [share - 100 * rate.low for share, rate in zip(shares, rates, strict=True)],
        [100 * rate.high - share for share, rate in zip(shares, rates, strict=True)],
    )
    left.barh(labels, shares, xerr=ends, color="#3b6ea5", capsize=3)
    left.set_xlabel("images that show their prompt, %, 95 % interval")
    levels = [0.0 if index == 0 else entry.psnr_db.mean for index, entry in enumerate(scores.values())]
    right.barh(labels, levels, color="#5f9e6e")
    right.set_xlabel("PSNR to the first model from the same noise, dB")
    left.invert_yaxis()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _print_table(scores: Mapping[str, StudentScores]) -> None:
    from rich.console import Console
    from rich.table import Table

    from microforge_benchmarks.evaluate.source_tasks import interval, percent

    table = Table(
        "", "steps", "evaluations", "accuracy", "95 % interval", "minus the first", "PSNR to the first",
        "plan-state error",
    )  # fmt: skip
    for name, entry in scores.items():
        pair = entry.difference
        error = None if entry.plan_state_error is None else entry.plan_state_error.mean
        table.add_row(
            name, str(entry.steps), f"{entry.evaluations:g}", percent(entry.accuracy), interval(entry.accuracy),
            f"{100 * pair.mean:+.1f} ({100 * pair.low:+.1f} to {100 * pair.high:+.1f})",
            f"{entry.psnr_db.mean:.2f} dB", "-" if error is None else f"{100 * error:.2f} %",
        )  # fmt: skip
    Console(stderr=True).print(table)


if __name__ == "__main__":
    run(app)
