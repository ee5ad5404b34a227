"""``mf-generate``: thin; everything heavy is imported inside the command."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microforge.errors import BundleError, OutputError, SpecError
from microforge.io.console import command_app, print_json, run, say_warning
from microforge.version import __version__

if TYPE_CHECKING:
    from microforge.bundle.manifest import Task
    from microforge_runtimes.generator import Result
    from microforge_runtimes.images.image_file import Pixels
    from microforge_runtimes.images.source_request import SourceRequest
    from microforge_runtimes.open_model import Drawer

app = command_app("Draw an image with a bundle or a checkpoint, from words or from a source.")

EXAMPLE = (
    'Example: mf-generate model.mfb "a red circle left of a blue square" --out image.png --seed 3; '
    'mf-generate model.mfb "make the circle green" --source photo.jpg --out edited.png; '
    'mf-generate model.mfb "make the circle green" --task edit --source photo.jpg --mask part.png --out edited.png'
)


@app.command(epilog=EXAMPLE)
def generate(
    model: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder made by mf-export build, or a checkpoint.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    prompt: Annotated[
        str | None, typer.Argument(help="What the image shows, or what to change; inpaint and super-resolve can do without.")
    ] = None,
    seed: Annotated[int, typer.Option(help="0 to 2**64 - 1; the same seed gives the same image everywhere.")] = 0,
    target: Annotated[str | None, typer.Option(help="Engine: onnx (the default), executorch or coreml, where the bundle has it.")] = None,
    size: Annotated[
        str | None, typer.Option(help="128 or 128x256 (height x width), if the bundle has several; for a source the one that fits best by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Step count, one that the bundle allows.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads of the engine.")] = None,
    task: Annotated[
        str | None, typer.Option(help="generate, edit, inpaint or super-resolve; --mask without it says inpaint, --source alone edit.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="Image of any size to start from, for edit, inpaint, super-resolve.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Image of the source's size, white where inpaint or edit may draw; all else stays.")] = None,
    factor: Annotated[int | None, typer.Option(help="How much larger super-resolve draws: 2 (the default) or 4.")] = None,
    composite: Annotated[
        bool, typer.Option("--composite", help="For edit: keep the source's own pixels where nothing visibly changed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:  # fmt: skip
    """Draw an image with a bundle or a checkpoint, from words or from a source."""
    from microforge.io.atomic import atomic_bytes, check_output
    from microforge_runtimes.images.source_request import check_options, read_request
    from microforge_runtimes.open_model import Choice, is_checkpoint, known_tasks, open_drawer

    chosen = _task(task, source, mask, known_tasks(model))
    check_options(chosen, source, mask, factor, composite, prompt)
    if out.suffix.lower() != ".png":
        raise OutputError(f"--out is {out}; the image is a PNG, give a name that ends in .png")
    check_output(out, force)
    if out.is_dir():
        raise OutputError(f"cannot write {out}: it is a folder")
    work = None if source is None else read_request(chosen, source, mask, factor, composite)
    with open_drawer(model, Choice(chosen, size, target, threads), work) as drawer:
        result, image = _draw(drawer, work, prompt, seed, steps)
    atomic_bytes(out, _png(result, image), force)
    if json:
        engine = "torch" if is_checkpoint(model) else target or "onnx"
        print_json(_summary(result, image, out, engine))
    else:
        print(out.absolute())


def _task(task: str | None, source: Path | None, mask: Path | None, has: tuple[Task, ...] | None) -> Task:
    """The task that the options name or imply; refuses one that the bundle, whose tasks are ``has``, lacks."""
    from microforge.spec import TASKS

    wanted = task or ("inpaint" if mask else "edit" if source else "generate")
    if wanted not in TASKS:
        raise SpecError(f"--task is {wanted!r}; allowed: {', '.join(TASKS)}")
    if has is not None and wanted not in has:
        raise BundleError(f"this bundle cannot {wanted}; its tasks: {', '.join(has)}")
    return wanted  # type: ignore[return-value]


def _draw(
    drawer: Drawer, work: SourceRequest | None, prompt: str | None, seed: int, steps: int | None
) -> tuple[Result, Pixels]:
    """Check everything that can be checked without an engine, then draw with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from microforge_runtimes.open_model import check, draw
    from microforge_runtimes.sampler import Step

    if check(drawer, work, prompt, seed, steps).truncated:
        say_warning(f"the prompt is longer than {drawer.max_length} tokens; the rest of it is ignored")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    bar = progress.add_task("denoising", total=None)

    def report(step: Step) -> None:
        progress.start()  # only now: an error before the first step stays one line
        progress.update(bar, completed=step.index, total=step.steps)

    try:
        return draw(drawer, work, prompt, seed, steps, report)
    finally:
        if progress.live.is_started:
            progress.stop()


def _png(result: Result, image: Pixels) -> bytes:
    """The image with how it was made in its text chunks."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in (
        ("Software", f"microforge {__version__}"),
        ("prompt", result.prompt),
        ("seed", str(result.seed)),
        ("bundle", result.bundle_id),
        ("size", f"{result.height}x{result.width}"),
        ("steps", str(result.steps)),
        *((("task", result.task),) if result.task != "generate" else ()),
    ):
        info.add_text(key, value)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def _summary(result: Result, image: Pixels, out: Path, target: str) -> dict[str, object]:
    return {
        "image": str(out.absolute()),
        "prompt": result.prompt,
        "seed": result.seed,
        "size": [image.shape[0], image.shape[1]],
        "drawn_size": [result.height, result.width],
        "task": result.task,
        "steps": result.steps,
        "bundle": result.bundle_id,
        "target": target,
        "truncated": result.truncated,
        "seconds": {stage: round(seconds, 4) for stage, seconds in result.seconds.items()},
    }


def main() -> None:
    """Entry point of ``mf-generate``."""
    run(app)


if __name__ == "__main__":
    main()
