"""Command line of ``mf-eval``; heavy packages are imported inside the command."""

from __future__ import annotations

import importlib
import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microforge.errors import OutputError, SpecError, missing_extra
from microforge.io.console import command_app, print_json, run

if TYPE_CHECKING:
    from PIL.Image import Image

    from microforge_benchmarks.evaluate.model_under_test import ModelUnderTest
    from microforge_benchmarks.evaluate.reports import GenerationReport, TaskReport

app = command_app("Measure how well generated images follow their prompts.")

EXAMPLE = "Example: mf-eval runs/tiny/checkpoint --prompts 500 --out scores.json"
SAMPLING, TASKS, OUTPUT = "Sampling", "What is evaluated", "Output"


@app.command(epilog=EXAMPLE)
def evaluate(
    model: Annotated[Path, typer.Argument(help="Checkpoint folder, or bundle made by mf-export build.")],
    out: Annotated[Path, typer.Option(help="JSON file to write; the contact sheet is written beside it (.png).", rich_help_panel=OUTPUT)],
    prompts: Annotated[int, typer.Option(min=1, max=100_000, help="Number of prompts, or of examples of --task.", rich_help_panel=TASKS)] = 500,
    task: Annotated[str, typer.Option(help="generate, edit, inpaint or super-resolve.", rich_help_panel=TASKS)] = "generate",
    single_object: Annotated[bool, typer.Option("--single-object", help="generate: use only prompts for one coloured object.", rich_help_panel=TASKS)] = False,
    stickers: Annotated[Path | None, typer.Option(help="Evaluate with this sticker set (mf-data stickers): retrieval of the asked sticker.", rich_help_panel=TASKS, metavar="FOLDER")] = None,
    geneval: Annotated[Path | None, typer.Option(help="With --stickers: ask the prompts of GenEval's metadata file whose classes the set knows.", rich_help_panel=TASKS, metavar="FILE")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for decoded stickers.", rich_help_panel=TASKS)] = Path("cache"),
    masked: Annotated[bool, typer.Option("--masked", help="edit: give the model a mask of the pixels that change, with a margin.", rich_help_panel=TASKS)] = False,
    size: Annotated[str | None, typer.Option(help="256 or 256x384 (height x width).", rich_help_panel=SAMPLING)] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Sampling steps.", rich_help_panel=SAMPLING)] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale of a checkpoint; 1 turns guidance off.", rich_help_panel=SAMPLING)] = None,
    target: Annotated[str | None, typer.Option(help="Engine of a bundle: onnx, executorch or coreml (interpreted, and slow, without macOS).", rich_help_panel=SAMPLING)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the prompts, and of the first image.", rich_help_panel=SAMPLING)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.", rich_help_panel=OUTPUT)] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as the last line of stdout.", rich_help_panel=OUTPUT)] = False,
) -> None:  # fmt: skip
    """Generate an image for every prompt, judge it with the rule-based detector, and write scores and their ceilings."""
    sheet_path = _check_outputs(out, force)
    _require_torch()
    from microforge.evaluation.contact_sheet import png_bytes
    from microforge.io.atomic import atomic_bytes
    from microforge_benchmarks.evaluate.model_under_test import SamplingOptions
    from microforge_benchmarks.evaluate.open_model import open_model_under_test
    from microforge_benchmarks.evaluate.source_tasks import (
        check_task,
        evaluate_source_task,
        print_task_table,
    )

    check_task(task, single_object, masked)
    if geneval is not None and stickers is None:
        raise SpecError("--geneval needs --stickers FOLDER, the set that the model knows")
    if stickers is not None and (task != "generate" or single_object):
        raise SpecError(
            "--stickers is for text-to-image prompts of its own; leave --task and --single-object out"
        )
    opened = open_model_under_test(model, SamplingOptions(size, steps, guidance, target))
    if stickers is not None:
        _evaluate_stickers(opened, str(model), stickers, geneval, cache, prompts, seed, out, force, json)
        return
    report: GenerationReport | TaskReport
    images: list[dict[str, object]] | None = None
    if task == "generate":
        report, images, sheet = _generate(opened, str(model), prompts, seed, single_object)
    else:
        report, sheet = evaluate_source_task(opened, str(model), task, prompts, seed, masked)
        print_task_table(report)
    values = asdict(report)
    written = values if images is None else {**values, "images": images}
    atomic_bytes(sheet_path, png_bytes(sheet), force)
    atomic_bytes(out, (json_module.dumps(written, indent=1) + "\n").encode(), force)
    if json:
        print_json({"out": str(out.absolute()), "sheet": str(sheet_path.absolute()), **values})
    else:
        print(out.absolute())


def _evaluate_stickers(
    model: ModelUnderTest, name: str, folder: Path, geneval: Path | None, cache: Path, prompts: int, seed: int,
    out: Path, force: bool, json: bool,
) -> None:  # fmt: skip
    """Judge a sticker model and write its report; no contact sheet."""
    from microforge.io.atomic import atomic_bytes
    from microforge_benchmarks.stickers.command import geneval_report, stickers_report

    if geneval is None:
        values = asdict(stickers_report(model, name, folder, cache, prompts, seed))
    else:
        values = asdict(geneval_report(model, name, geneval, folder, cache, seed))
    atomic_bytes(out, (json_module.dumps(values, indent=1) + "\n").encode(), force)
    if json:
        print_json({"out": str(out.absolute()), **values})
    else:
        print(out.absolute())


def _generate(
    model: ModelUnderTest, name: str, count: int, seed: int, single_object: bool
) -> tuple[GenerationReport, list[dict[str, object]], Image]:
    """Report, JSON entries of the judged images, and contact sheet of text-to-image generation."""
    from microforge.data.world.captions import evaluation_prompts, single_object_prompts
    from microforge.evaluation.contact_sheet import contact_sheet
    from microforge_benchmarks.evaluate.generation import evaluate_generation, image_entry
    from microforge_benchmarks.evaluate.generation_table import print_generation_table

    prompts = (single_object_prompts if single_object else evaluation_prompts)(count, seed)
    prompt_set = "single object" if single_object else "all categories"
    report, results = evaluate_generation(model, name, prompts, prompt_set, seed)
    print_generation_table(report)
    return report, [image_entry(result) for result in results], contact_sheet(results)


def _check_outputs(out: Path, force: bool) -> Path:
    """Refuse outputs that could not be written; return the path of the contact sheet."""
    from microforge.io.atomic import check_output

    if out.suffix.lower() != ".json":
        raise OutputError(f"--out is {out}; the scores are JSON, give a name that ends in .json")
    sheet = out.with_suffix(".png")
    for path in (out, sheet):
        check_output(path, force)
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder")
    return sheet


def _require_torch() -> None:
    """Refuse without torch, which renders the reference images for bundles, too."""
    for package in ("torch", "safetensors", "scipy"):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError:
            raise missing_extra(package, "train") from None


def main() -> None:
    """Entry point of ``mf-eval``."""
    run(app)


if __name__ == "__main__":
    main()
