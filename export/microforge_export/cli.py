"""``mf-export``: thin; everything heavy is imported inside the commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microforge.io.console import command_app, print_json, run, say, say_error

if TYPE_CHECKING:
    from microforge_export.build.stages import Reporter, State
    from microforge_export.components.component import SourceModel

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
    precision: Annotated[str | None, typer.Option(help="fp32 or int8; for coreml also fp16. By default fp32, for coreml fp16.")] = None,
    recipe_files: Annotated[list[Path] | None, typer.Option("--recipe", metavar="FILE", help="INT8 recipe from mf-export tune; repeat for several targets. The shipped one of the model by default.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks, with commas between them: generate, edit, inpaint, super-resolve. All that the checkpoint knows by default.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Export a checkpoint to a bundle, checked through the shipped runtime."""
    from microforge.errors import OutputError
    from microforge.io.atomic import check_output
    from microforge_export.recipes.build_recipe import make_recipe

    recipe = make_recipe(
        target=target, precision=precision, sizes=size or (), tasks=tasks, recipes=recipe_files or ()
    )
    if out is None and not dry_run:
        raise OutputError("say where to write the bundle: --out NAME.mfb")
    if out is not None:
        check_output(out, force)

    from microforge_export.build import builder
    from microforge_export.providers.microforge import read_model

    def load() -> SourceModel:
        return read_model(checkpoint)

    if dry_run or out is None:
        from microforge_export.build.dry_run_view import plan_table, plan_values

        planned = builder.plan(recipe, load)
        _result(json, plan_values(planned), plan_table(planned))
        return
    from microforge_export.quantization.quality_gate import QualityError

    try:
        with _progress() as report:
            state = builder.build(recipe, load, out, force, report)
    except QualityError as error:
        from rich.console import Console

        from microforge_export.quantization.quality_view import fault_tables

        Console(stderr=True).print(fault_tables(error))
        raise
    _built(state, out, json)


@app.command(epilog="Example: mf-export tune --target onnx --prefer size --out nano-onnx.toml")
def tune(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Folder of the model; the shipped model when omitted.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Recipe to write, TOML.")] = Path("recipe.toml"),
    target: Annotated[str, typer.Option(help="Engine to tune for: onnx, executorch, coreml.")] = "onnx",
    prefer: Annotated[str, typer.Option(help="speed: a component is quantized when that makes it faster, and the fastest choice wins. size: whatever is smallest and precise enough wins, faster or not.")] = "speed",
    size: Annotated[str | None, typer.Option(help="128 or 128x256 (height x width); the trained size by default.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Images to judge by, here and whenever a build applies the recipe.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Timed evaluations of every candidate.")] = 30,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine while it is timed.")] = 2,
    measured: Annotated[Path | None, typer.Option(help="Take times from this JSON list of a device's rows.")] = None,
    start: Annotated[Path | None, typer.Option(help="Begin with this recipe's choice instead of measuring candidates; it only becomes more precise, until every limit is met.")] = None,
    note: Annotated[str, typer.Option(help="One line about the measurements to keep in the recipe.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing recipe.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Measure INT8 candidates, error and speed, and write the best that is precise enough as a recipe.

    What is optimised is the time of one evaluation of each component (or its bytes, with --prefer size), under
    limits on PSNR of components and whole images, on what the prompt still changes, and on the plan state.
    """
    from microforge_export.quantization.tuning.command import run_tune, tune_request

    request = tune_request(
        target=target, prefer=prefer, size=size, prompts=prompts, rounds=rounds, threads=threads, measured=measured,
        note=note, start=start,
    )  # fmt: skip
    recipe, quality = run_tune(checkpoint, out, request, force, say)
    from microforge_export.quantization.tuning.view import tune_table, tune_values

    _result(json, tune_values(recipe, quality), tune_table(recipe, quality))


@app.command(
    epilog="Example: mf-export distill runs/tiny/flow/checkpoint --out runs/tiny-4 --bf16   (kill it at will; repeat with --resume)"
)
def distill(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Folder of the teacher; the shipped teacher when omitted.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Checkpoint of the student to write; its run is kept in OUT.run.")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from a student of a teacher before this one, same VAE; from the teacher's own weights by default.")] = None,
    init_teacher: Annotated[Path | None, typer.Option(help="The teacher that --init was distilled from: what the new one has learned since is added to the student's weights first.")] = None,
    move: Annotated[float, typer.Option(help="With --init-teacher: how much of that is added; less keeps more of what the student can.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Steps of the student: 1, 2, 4 or 8.")] = 4,
    skip: Annotated[int | None, typer.Option(help="Segment-CD: the target lies so many teacher steps on; a whole window when omitted.")] = None,
    updates: Annotated[int | None, typer.Option(help="Optimizer updates; the configuration's own by default. 0, with --init-teacher: move the student after its teacher and train nothing.")] = None,
    batch: Annotated[int | None, typer.Option(help="Drawings per update, for each process; each gives STEPS samples.")] = None,
    drawings: Annotated[int | None, typer.Option(help="Teacher drawings to learn from, of all tasks.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The configuration's own by default.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or muon; the configuration's own by default.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the averaged weights that are written; 0.999 by default, less for a short run.")] = None,
    anchor: Annotated[float | None, typer.Option(help="Share of the drawings that keep the flow loss; 0.1 by default.")] = None,
    own: Annotated[float | None, typer.Option("--own-rollout", help="Share of the updates, the last ones, that start windows where the student itself arrives; 0.1 by default.")] = None,
    perturb: Annotated[float | None, typer.Option(help="Noise on where windows start, up to this standard deviation, for a student of many updates (0.15); none by default.")] = None,
    int8_grid: Annotated[bool, typer.Option("--int8-grid", help="Round what is written to the grid of INT8 weights, so that quantizing them loses nothing.")] = False,
    generate: Annotated[float | None, typer.Option("--generate-share", help="Share of plain generation among the drawings of a teacher that knows more; the edit stage's mix by default.")] = None,
    true_targets: Annotated[str | None, typer.Option(help="Tasks with a source, with commas between them, that learn the true results of the data instead of the teacher's guided drawings: super-resolve has one right result, and the drawings cost three branches a step.")] = None,
    drawer: Annotated[list[str] | None, typer.Option(metavar="TASK=CHECKPOINT", help="Who draws what is learned of a task, in the teacher's place; once for each task. A student of before keeps, or gives back, what it could do, and draws in its few steps.")] = None,
    faithful: Annotated[bool, typer.Option("--faithful", help="Learn only from drawings in which the oracle finds what their captions, or the true results of edits, say; of the built-in world alone.")] = False,
    size: Annotated[str | None, typer.Option(help="128 or 128x256 (height x width); the trained size by default.")] = None,
    data: Annotated[str, typer.Option(help="Where captions come from: scenes, a folder, or .tar shards, as in mf-train.")] = "scenes",
    edits: Annotated[str | None, typer.Option(help="A teacher that edits, with --data of your own: folder of edit triples.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of the teacher's drawings, to share between runs; in OUT.run by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of captions, noise and batches.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto takes the best there is.")] = "auto",
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16 autocast, for the teacher's drawings too.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the student, and the teacher while it draws.")] = False,
    accumulate: Annotated[int | None, typer.Option(help="Split each process's batch into so many.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what disk and memory it would take; write nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Drop the run in OUT.run, replace OUT; drawings that fit are kept.")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Updates between saved states.")] = 500,
    sample_every: Annotated[int, typer.Option(min=1, help="Updates between sample sheets.")] = 2000,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's files too.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Teach a student to draw in a few steps what the checkpoint draws in 32, guidance folded in."""
    from microforge.training.distillation.command import DistillRequest, run_distill
    from microforge.training.engine.distributed import speaks

    request = DistillRequest(
        checkpoint=checkpoint, out=out, init=init, init_teacher=init_teacher, move=move, steps=steps, skip=skip, updates=updates, batch=batch, drawings=drawings,
        learning_rate=learning_rate, optimizer=optimizer, ema=ema, anchor=anchor, own=own, perturb=perturb,
        int8_grid=int8_grid, generate=generate, faithful=faithful, true_targets=true_targets, drawers=tuple(drawer or ()),
        size=size, data=data, edits=edits, cache=cache, resume=resume, force=force, dry_run=dry_run, seed=seed, device=device, bf16=bf16,
        compile=compile, accumulate=accumulate, threads=threads,
        save_every=save_every, sample_every=sample_every, tensorboard=tensorboard,
    )  # fmt: skip
    result = run_distill(request)
    if not speaks():
        return
    if json:
        print_json(result)
    elif "checkpoint" in result:
        print(result["checkpoint"])


@app.command(
    "text-encoder",
    epilog="Example: mf-export text-encoder ./clip-vit-base-patch32 --length 77 --out clip-text",
)
def text_encoder(
    source: Annotated[str, typer.Argument(help="Folder of a transformers model with its tokenizer, or a hub id: CLIP, Gemma-2, BERT or MiniLM.", metavar="FOLDER_OR_ID")],
    out: Annotated[Path, typer.Option(help="Folder to write: text_encoder.onnx, tokenizer.json, text_encoder.json.")],
    length: Annotated[int | None, typer.Option(help="Tokens of an encoded prompt; 64 by default, or the model's own limit when that is less.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Export a text encoder of another library with the interface of a bundle's own, checked against torch."""
    from microforge.io.atomic import check_output

    check_output(out, force)
    from microforge_export.providers.text_encoder import export_text_encoder

    with _progress() as report:
        made = export_text_encoder(source, out, length, force, report)
    say(f"text_encoder: {made.parity.psnr_db:.1f} dB (needed: {made.parity.threshold_db:g})")
    if json:
        print_json({"out": str(out.absolute()), **made.model_dump()})
    else:
        print(out.absolute())


@app.command(epilog="Example: mf-export verify model.mfb")
def verify(bundle: BundleFolder, json: Json = False) -> int:
    """Check every hash and re-run every parity check; exit 1 when one falls short."""
    from rich.table import Table

    from microforge.bundle.files import load_bundle
    from microforge.io.console import DONE, FELL_SHORT
    from microforge_export.checks.verify import verify as check

    result = check(load_bundle(bundle), lambda what: say(f"checking {what}"))
    table = Table("checked", "measured", "needed")
    for target, components in result.parity.items():
        for key, value in components.items():
            table.add_row(f"{target} {key}", f"{value.psnr_db:.1f} dB", f"{value.threshold_db:g} dB")
        for name, image in result.images[target].items():
            row = (f"{target} image of {name}", f"{image.max_abs_255:.3g}/255", f"{image.threshold:g}/255")
            table.add_row(*row)
        for figure in result.figures.get(target, ()):
            table.add_row(f"{target} {figure.what}", figure.measured(), figure.needed())
    targets = {
        target: {
            "parity": {key: value.model_dump() for key, value in result.parity[target].items()},
            "images": {name: value.model_dump() for name, value in result.images[target].items()},
            "figures": {figure.what: figure.value for figure in result.figures.get(target, ())},
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
    from microforge.bundle.files import load_bundle
    from microforge_export.checks.inspect import render, summary

    opened = load_bundle(bundle)
    _result(json, summary(opened), render(opened))


@app.command(epilog="Example: mf-export fit model.mfb --device phone-3gb")
def fit(
    bundle: BundleFolder,
    device: Annotated[str, typer.Option(help="phone-2gb, phone-3gb, phone-4gb, or a TOML file.")] = "phone-3gb",
    mode: Annotated[str, typer.Option(help="auto, resident or staged: how stages are loaded.")] = "auto",
    target: Annotated[str, typer.Option(help="Engine: onnx or executorch.")] = "onnx",
    size: Annotated[str | None, typer.Option(help="128 or 128x256 (height x width), if there are several.")] = None,
    json: Json = False,
) -> int:  # fmt: skip
    """Predict every stage's peak memory; exit 1 when it does not fit the device."""
    from microforge.bundle.devices import find_device
    from microforge.bundle.files import load_bundle
    from microforge.io.console import DONE, FELL_SHORT
    from microforge.spec import parse_size
    from microforge_export.memory.fit import fit as check
    from microforge_export.memory.fit_view import fit_table, fit_values

    profile, opened = find_device(device), load_bundle(bundle)
    pixels = None if size is None else parse_size(size, opened.manifest.latent.downsample)
    answer = check(opened, profile, target, pixels, mode)
    _result(json, fit_values(opened, answer), fit_table(answer))
    if not answer.fits:
        say_error(f"does not fit: {answer.reason}")
    return DONE if answer.fits else FELL_SHORT


def _result(json: bool, values: dict[str, Any], table: Any) -> None:
    """``values`` as JSON, or else ``table``, on stdout."""
    if json:
        print_json(values)
        return
    from rich.console import Console

    Console().print(table)


def _built(state: State, out: Path, json: bool) -> None:
    from microforge_export.checks.figures import image_figures
    from microforge_export.checks.inspect import target_bytes

    manifest = state.get("manifest")
    for name, target in manifest.targets.items():
        for key, value in target.parity.items():
            say(f"{name} {key}: {value.psnr_db:.1f} dB (needed: {value.threshold_db:g})")
        worst, limit = target.image.max_abs_255, target.image.threshold
        say(f"{name} whole image: worst pixel {worst:.3g}/255 (allowed: {limit:g})")
        for size, quality in target.quality.items():
            for figure in image_figures(quality):
                say(f"{name} at {size}, {figure.what}: {figure.measured()} (needed: {figure.needed()})")
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
                "quality": {size: value.model_dump() for size, value in target.quality.items()},
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


if __name__ == "__main__":
    main()
