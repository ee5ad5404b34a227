"""``mf-generate``: thin; everything heavy is imported inside the command."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microforge import __version__
from microforge.cli import command_app, print_json, run, say_warning
from microforge.errors import BundleError, OutputError, SpecError

if TYPE_CHECKING:
    from microforge_runtimes.generate import Generator, Result

app = command_app("Draw an image with a bundle.")

EXAMPLE = 'Example: mf-generate model.mfb "a red circle left of a blue square" --out image.png --seed 3'


@app.command(epilog=EXAMPLE)
def generate(
    bundle: Annotated[Path, typer.Argument(help="Folder made by mf-export build.")],
    prompt: Annotated[str, typer.Argument(help="What the image shows.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    seed: Annotated[
        int, typer.Option(help="0 to 2**64 - 1; the same seed gives the same image everywhere.")
    ] = 0,
    target: Annotated[
        str, typer.Option(help="Engine: onnx, executorch or coreml, where the bundle has it.")
    ] = "onnx",
    size: Annotated[
        str | None, typer.Option(help="128 or 128x256 (height x width), if the bundle has several.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Step count, one that the bundle allows.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads of the engine.")] = None,
    task: Annotated[str | None, typer.Option(help="generate, edit, inpaint or super-resolve.")] = None,
    source: Annotated[
        Path | None, typer.Option(help="Image to start from, for edit, inpaint, super-resolve.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Image that is white where inpaint draws.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")
    ] = False,
) -> None:
    """Draw an image with a bundle."""
    from microforge.bundle_files import atomic_bytes, check_output, load_bundle
    from microforge.spec import parse_size
    from microforge_runtimes.generate import Generator

    opened = load_bundle(bundle)
    _check_task(task, source, mask, list(opened.manifest.tasks))
    if out.suffix.lower() != ".png":
        raise OutputError(f"--out is {out}; the image is a PNG, give a name that ends in .png")
    check_output(out, force)
    if out.is_dir():
        raise OutputError(f"cannot write {out}: it is a folder")
    chosen = None if size is None else parse_size(size, opened.manifest.latent.downsample)
    with Generator(opened, target, chosen, threads) as generator:
        result = _draw(generator, prompt, seed, steps)
    atomic_bytes(out, _png(result), force)
    if json:
        print_json(_summary(result, out, target))
    else:
        print(out.absolute())


def _check_task(task: str | None, source: Path | None, mask: Path | None, has: list[str]) -> None:
    """Refuse a task that the bundle or this version does not have; the options imply it when it is not named."""
    from microforge.spec import TASKS

    wanted = task or ("inpaint" if mask else "edit" if source else "generate")
    if wanted not in TASKS:
        raise SpecError(f"--task is {wanted!r}; allowed: {', '.join(TASKS)}")
    if wanted not in has:
        raise BundleError(f"this bundle cannot {wanted}; its tasks: {', '.join(has)}")
    if wanted != "generate":
        raise BundleError(f"this version of mf-generate cannot {wanted}; it can: generate")
    if source or mask:
        raise SpecError("--source and --mask do not belong to --task generate")


def _draw(generator: Generator, prompt: str, seed: int, steps: int | None) -> Result:
    """Check everything that can be checked without an engine, then draw with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from microforge_runtimes.sampler import Step

    if generator.check(prompt, seed, steps).truncated:
        length = generator.bundle.manifest.tokenizer.max_length
        say_warning(f"the prompt is longer than {length} tokens; the rest of it is ignored")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    bar = progress.add_task("denoising", total=None)

    def report(step: Step) -> None:
        progress.start()  # only now: an error before the first step stays one line
        progress.update(bar, completed=step.index, total=step.steps)

    try:
        return generator.generate(prompt, seed, steps, report)
    finally:
        if progress.live.is_started:
            progress.stop()


def _png(result: Result) -> bytes:
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
    ):
        info.add_text(key, value)
    stream = io.BytesIO()
    Image.fromarray(result.image).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def _summary(result: Result, out: Path, target: str) -> dict[str, object]:
    return {
        "image": str(out.absolute()),
        "prompt": result.prompt,
        "seed": result.seed,
        "size": [result.height, result.width],
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
