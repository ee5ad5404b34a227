"""``mf-eval``: thin; everything heavy is imported inside the command."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microforge.errors import OutputError, missing_extra
from microforge.io.console import command_app, print_json, run
from microforge.streams import FixedSeed

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor

    from microforge.data.world.captions import Prompt
    from microforge.evaluation.classifier import Classifier
    from microforge.evaluation.generation import Draw, Judged
    from microforge_benchmarks.evaluate.subjects import Subject

app = command_app("Measure how well images follow their prompts.")

EXAMPLE = "Example: mf-eval runs/tiny/checkpoint --prompts 500 --out scores.json"
FORMAT = 1
VAE_SCENES = 128
PLANNER_PROMPTS = 16
#: KID is printed in thousandths.
_KID_SCALE = 1000


@app.command(epilog=EXAMPLE)
def evaluate(
    model: Annotated[Path, typer.Argument(help="Checkpoint folder, or bundle made by mf-export build.")],
    out: Annotated[Path, typer.Option(help="JSON file to write; the contact sheet goes beside it, as .png.")],
    prompts: Annotated[int, typer.Option(min=1, max=100_000, help="How many prompts.")] = 500,
    size: Annotated[str | None, typer.Option(help="256 or 256x384 (height x width).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Sampling steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale, 1 = off (checkpoints only).")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Engine of a bundle: onnx, executorch, coreml (interpreted, slowly, where there is no macOS)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts, and of the first image.")] = 0,
    single_object: Annotated[
        bool, typer.Option("--single-object", help="Only prompts for one coloured object.")
    ] = False,
    task: Annotated[
        str, typer.Option(help="generate, edit, inpaint or super-resolve; --prompts counts its examples.")
    ] = "generate",
    masked: Annotated[
        bool,
        typer.Option(
            "--masked", help="edit: say where each may draw, a little wider than what truly changes."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the scores as the last line of stdout.")
    ] = False,
) -> None:
    """Draw an image for every prompt, let the oracle judge it, and write the scores beside their ceilings."""
    sheet_path = _check_outputs(out, force)
    _need_torch()
    from microforge.data.world.captions import evaluation_prompts, single_object_prompts
    from microforge.evaluation.contact_sheet import contact_sheet, png_bytes
    from microforge.io.atomic import atomic_bytes
    from microforge_benchmarks.evaluate.edits import check_task, evaluate_source_task
    from microforge_benchmarks.evaluate.subjects import Settings, open_subject

    settings = Settings(size, steps, guidance, target)
    check_task(task, single_object, masked)
    if task != "generate":
        subject = open_subject(model, settings)
        report, sheet = evaluate_source_task(subject, task, prompts, seed, masked)
        report = {"format": FORMAT, "model": str(model), **report}
        atomic_bytes(sheet_path, png_bytes(sheet), force)
        atomic_bytes(out, (json_module.dumps(report, indent=1) + "\n").encode(), force)
        _say_done(report, out, sheet_path, json)
        return
    subject = open_subject(model, settings)
    asked = (single_object_prompts if single_object else evaluation_prompts)(prompts, seed)
    results, scores = _measure(subject, asked, seed)
    report = {
        "format": FORMAT, "model": str(model), "kind": subject.kind, "identity": subject.identity,
        "size": [subject.height, subject.width], "steps": subject.steps, "guidance": subject.guidance,
        "seed": seed, "prompts": len(asked), "prompt_set": "single object" if single_object else "all categories",
        **scores,
    }  # fmt: skip
    full = report | {"images": [_entry(result) for result in results]}
    atomic_bytes(sheet_path, png_bytes(contact_sheet(results)), force)
    atomic_bytes(out, (json_module.dumps(full, indent=1) + "\n").encode(), force)
    _print_table(report)
    _say_done(report, out, sheet_path, json)


def _say_done(report: dict[str, Any], out: Path, sheet: Path, json: bool) -> None:
    if json:
        print_json({"out": str(out.absolute()), "sheet": str(sheet.absolute()), **report})
    else:
        print(out.absolute())


def _check_outputs(out: Path, force: bool) -> Path:
    """Refuse outputs that could not be written; the contact sheet's path."""
    from microforge.io.atomic import check_output

    if out.suffix.lower() != ".json":
        raise OutputError(f"--out is {out}; the scores are JSON, give a name that ends in .json")
    sheet = out.with_suffix(".png")
    for path in (out, sheet):
        check_output(path, force)
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder")
    return sheet


def _need_torch() -> None:
    """Bundles need it too: the true renders that they are compared with are drawn with torch."""
    for package in ("torch", "safetensors", "scipy"):
        try:
            __import__(package)
        except ModuleNotFoundError:
            raise missing_extra(package, "train") from None


def _measure(subject: Subject, prompts: list[Prompt], seed: int) -> tuple[list[Judged], dict[str, Any]]:
    """All scores: the model's, the ceilings, KID, the VAE's, the planner's; with a progress bar on stderr.

    The judged images come without their pixels, but for those that the contact sheet shows.
    """
    from microforge.evaluation.classifier import load_classifier
    from microforge.evaluation.generation import scenes_draw, summarize, vae_quality

    size, classifier = (subject.height, subject.width), load_classifier()
    with _progress() as progress:

        def score(draw: Draw, what: str) -> tuple[list[Judged], Tensor]:
            return _score(draw, prompts, seed, classifier, progress, what)

        results, features = score(subject.draw, "images")
        truth, true_rows = score(scenes_draw(*size), "ceiling")
        ceilings, quality, copies = {"true_renders": summarize(truth)}, None, None
        if subject.round_trip is not None:
            judged, copies = score(scenes_draw(*size, subject.round_trip), "ceiling of the VAE")
            ceilings["vae_round_trip"] = summarize(judged)
            quality = vae_quality(subject.round_trip, *size, scenes=VAE_SCENES, seed=seed)
    # the ceiling's own renders start at the seed: the reference has others
    reference = _true_features(scenes_draw(*size), prompts, seed + FixedSeed.UNSEEN_SCENES, classifier)
    scores = {"scores": summarize(results), "ceilings": ceilings, "vae": quality}
    distances = _distances(features, true_rows, copies, reference, classifier.identity)
    return results, {**scores, "kid": distances, "planner": _planner(subject, prompts, seed)}


def _score(
    draw: Draw, prompts: list[Prompt], seed: int, classifier: Classifier, progress: Progress, what: str
) -> tuple[list[Judged], Tensor]:
    """Judged images and the classifier's features (N, F) of them, a batch of pixels in memory at a time."""
    import torch

    from microforge.evaluation.contact_sheet import shown_every
    from microforge.evaluation.generation import Images, evaluate, to_float_images, without_image

    rows: list[Tensor] = []

    def watch(images: Images) -> None:
        rows.append(classifier.features(to_float_images(images)))

    found = _tracked(progress, evaluate(draw, prompts, seed, watch=watch), len(prompts), what)
    every = shown_every(len(prompts))
    kept = [one if index % every == 0 else without_image(one) for index, one in enumerate(found)]
    return kept, torch.cat(rows)


def _true_features(draw: Draw, prompts: list[Prompt], seed: int, classifier: Classifier) -> Tensor:
    """Features (N, F) of other true renders of ``prompts``, which need no judgement."""
    import torch

    from microforge.evaluation.generation import BATCH, to_float_images

    groups = ((prompts[start : start + BATCH], seed + start) for start in range(0, len(prompts), BATCH))
    return torch.cat([classifier.features(to_float_images(draw(*group))) for group in groups])


def _distances(
    images: Tensor, truth: Tensor, copies: Tensor | None, reference: Tensor, classifier: str
) -> dict[str, Any] | None:
    """KID of features (N, F) whose rows belong to the same prompts; None for a single prompt.

    The VAE's ``copies`` are compared with their originals, ``truth``: what a scene holds cancels out, and
    the error is a fraction of what it would be beside the ``reference``, which holds other scenes.
    """
    from microforge.evaluation.kid import kid

    def entry(x: Tensor, y: Tensor) -> dict[str, Any]:
        found = kid(x, y, paired=True)
        error = None if found.stderr is None else round(found.stderr, 6)
        return {"value": round(found.value, 6), "stderr": error, "subsets": found.subsets}

    if len(reference) < 2:
        return None
    return entry(images, reference) | {
        "features": f"classifier {classifier}",
        "floor": entry(truth, reference),
        "vae_round_trip": None if copies is None else entry(copies, truth),
    }


def _planner(subject: Subject, prompts: list[Prompt], seed: int) -> dict[str, Any] | None:
    """What the planner does on the first prompts; None for a bundle."""
    if subject.planner is None:
        return None
    asked = prompts[:PLANNER_PROMPTS]
    found = subject.planner(asked, seed)
    return {
        "prompts": len(asked), "mean_cosine": round(found.mean_cosine, 4),
        "self_conditioning_change": round(found.self_conditioning_change, 5),
    }  # fmt: skip


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress display on stderr that stays silent about a command that fails before its first image."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    try:
        yield progress
    finally:
        if progress.live.is_started:
            progress.stop()


def _tracked(progress: Progress, results: Iterable[Judged], total: int, what: str) -> Iterator[Judged]:
    task = progress.add_task(what, total=total)
    for result in results:
        progress.start()
        progress.advance(task)
        yield result


def _entry(result: Judged) -> dict[str, Any]:
    from dataclasses import asdict

    prompt = result.prompt
    return {
        "prompt": prompt.text, "category": prompt.category, "held_out": prompt.held_out, "seed": result.seed,
        **asdict(result.verdict),
    }  # fmt: skip


def _print_table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    scores, ceilings = report["scores"], list(report["ceilings"].values())
    table = Table(
        "", "accuracy", "95 % interval", "of", *(name.replace("_", " ") for name in report["ceilings"])
    )

    def row(name: str, mine: dict[str, Any], bounds: list[dict[str, Any]]) -> None:
        if mine["total"] == 0:  # single-object prompts have no split
            return
        interval = f"{100 * mine['low']:.1f} - {100 * mine['high']:.1f}"
        label = name.replace("_", " ")
        table.add_row(label, _percent(mine), interval, str(mine["total"]), *map(_percent, bounds))

    row("overall", scores["overall"], [part["overall"] for part in ceilings])
    for name, part in scores["split"].items():
        row(name, part["overall"], [ceiling["split"][name]["overall"] for ceiling in ceilings])
    for group in ("categories", "facts"):
        table.add_section()
        for name, mine in scores[group].items():
            label = f"{name} (fact)" if group == "facts" else name
            row(label, mine, [part[group][name] for part in ceilings])
    table.add_section()
    for line in _other_rows(report):
        table.add_row(*line)
    Console(stderr=True).print(table)


def _other_rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Lines of the table that are no percentages: KID beside its floor and its VAE, and the planner."""
    distances, planner = report["kid"], report["planner"]
    if distances is not None:
        interval = "-"
        if distances["stderr"] is not None:
            ends = [_KID_SCALE * (distances["value"] + z * distances["stderr"]) for z in (-1.96, 1.96)]
            interval = f"{ends[0]:.1f} to {ends[1]:.1f}"
        mine, *others = (
            f"{_KID_SCALE * part['value']:.1f}"
            for part in (distances, distances["floor"], distances["vae_round_trip"])
            if part is not None
        )
        yield f"KID x {_KID_SCALE}", mine, interval, str(report["prompts"]), *others
    if planner is not None:
        count = str(planner["prompts"])
        yield "plan cosine", f"{planner['mean_cosine']:.3f}", "-", count
        yield "plan memory", f"{planner['self_conditioning_change']:.4f}", "-", count


def _percent(rate: dict[str, Any]) -> str:
    return "-" if rate["accuracy"] is None else f"{100 * rate['accuracy']:.1f} %"


def main() -> None:
    """Entry point of ``mf-eval``."""
    run(app)


if __name__ == "__main__":
    main()
