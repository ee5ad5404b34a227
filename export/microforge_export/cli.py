"""``mf-export``: thin; everything heavy is imported inside the commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microforge.cli import command_app, print_json, run, say, say_error

if TYPE_CHECKING:
    from microforge_export.pipeline import Reporter, State
    from microforge_export.program import SourceModel

app = command_app("Build, verify and inspect bundles for phones.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
BundleFolder = Annotated[Path, typer.Argument(help="Folder made by mf-export build.", metavar="BUNDLE")]


@app.callback()
def _commands() -> None:
    """Build, verify and inspect bundles for phones."""


@app.command(
    epilog="Example: mf-export build --out model.mfb --target onnx,executorch --size 128 --size 128x256"
)
def build(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Folder with config.json, model.safetensors, tokenizer.json; the shipped model when omitted.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Bundle to write; not needed with --dry-run.")] = None,
    target: Annotated[str, typer.Option(help="Engines to build for, with commas between them: onnx, executorch, coreml.")] = "onnx",
    size: Annotated[list[str] | None, typer.Option(help="128 or 128x256 (height x width); repeat for several in one bundle. The trained size by default.")] = None,
    precision: Annotated[str, typer.Option(help="fp32; for coreml also fp16.")] = "fp32",
    tasks: Annotated[str, typer.Option(help="Tasks, with commas between them: generate.")] = "generate",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Export a checkpoint to a bundle, checked through the shipped runtime."""
    from microforge.bundle_files import check_output
    from microforge.errors import OutputError
    from microforge_export.recipe import make_recipe

    recipe = make_recipe(target=target, precision=precision, sizes=size or (), tasks=tasks)
    if out is None and not dry_run:
        raise OutputError("say where to write the bundle: --out NAME.mfb")
    if out is not None:
        check_output(out, force)

    from microforge_export import pipeline
    from microforge_export.microforge_provider import read_model

    def load() -> SourceModel:
        return read_model(checkpoint)

    if dry_run or out is None:
        from microforge_export.plan_view import plan_table, plan_values

        planned = pipeline.plan(recipe, load)
        _result(json, plan_values(planned), plan_table(planned))
        return
    with _progress() as report:
        state = pipeline.build(recipe, load, out, force, report)
    _built(state, out, json)


@app.command(epilog="Example: mf-export verify model.mfb")
def verify(bundle: BundleFolder, json: Json = False) -> int:
    """Check every hash and re-run every parity check; exit 1 when one falls short."""
    from rich.table import Table

    from microforge.bundle_files import load_bundle
    from microforge.cli import DONE, FELL_SHORT
    from microforge_export.verify import verify as check

    result = check(load_bundle(bundle), lambda what: say(f"checking {what}"))
    table = Table("checked", "measured", "needed")
    for target, components in result.parity.items():
        for key, value in components.items():
            table.add_row(f"{target} {key}", f"{value.psnr_db:.1f} dB", f"{value.threshold_db:g} dB")
        for name, image in result.images[target].items():
            row = (f"{target} image of {name}", f"{image.max_abs_255:.3g}/255", f"{image.threshold:g}/255")
            table.add_row(*row)
    targets = {
        target: {
            "parity": {key: value.model_dump() for key, value in result.parity[target].items()},
            "images": {name: value.model_dump() for name, value in result.images[target].items()},
        }
        for target in result.parity
    }
    problems = list(result.problems)
    values = {"bundle": str(bundle), "ok": not problems, "targets": targets, "problems": problems}
    _result(json, values, table)
    for problem in result.problems:
        say_error(problem)
    return FELL_SHORT if result.problems else DONE


@app.command(epilog="Example: mf-export inspect model.mfb --json")
def inspect(bundle: BundleFolder, json: Json = False) -> None:
    """Show components, files, shapes, precision, bytes, parity and operators."""
    from microforge.bundle_files import load_bundle
    from microforge_export.inspect import render, summary

    opened = load_bundle(bundle)
    _result(json, summary(opened), render(opened))


def _result(json: bool, values: dict[str, Any], table: Any) -> None:
    """``values`` as JSON, or else ``table``, on stdout."""
    if json:
        print_json(values)
        return
    from rich.console import Console

    Console().print(table)


def _built(state: State, out: Path, json: bool) -> None:
    from microforge_export.inspect import target_bytes

    manifest = state.get("manifest")
    for name, target in manifest.targets.items():
        for key, value in target.parity.items():
            say(f"{name} {key}: {value.psnr_db:.1f} dB (needed: {value.threshold_db:g})")
        worst, limit = target.image.max_abs_255, target.image.threshold
        say(f"{name} whole image: worst pixel {worst:.3g}/255 (allowed: {limit:g})")
    if not json:
        print(out.absolute())
        return
    print_json({
        "bundle": str(out.absolute()),
        "id": state.bundle_id,
        "sizes": [str(entry.size) for entry in manifest.sizes],
        "targets": {
            name: {
                "bytes": target_bytes(target),
                "parity": {key: value.model_dump() for key, value in target.parity.items()},
                "image": target.image.model_dump(),
                "delegated_fraction": target.delegated_fraction,
            }
            for name, target in manifest.targets.items()
        },
        "seconds": round(sum(state.seconds.values()), 2),
    })  # fmt: skip


@contextmanager
def _progress() -> Iterator[Reporter]:
    """A bar on a terminal's stderr; elsewhere one line per stage."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda number, count, name: say(f"[{number}/{count}] {name}")
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("")
        yield lambda number, count, name: progress.update(
            bar, completed=number - 1, total=count, description=name
        )


def main() -> None:
    """Entry point of ``mf-export``."""
    run(app)
