"""``mf-bench scaling``: thin; everything heavy is imported inside the command."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from microforge.errors import SpecError
from microforge.io.console import command_app, print_json, say
from microforge_benchmarks.measure.random_bundles import Precision

app = command_app("Time and memory against image size and token count.")
FILE, PLOT = "scaling.json", "scaling.png"
EXAMPLE = "Example: mf-bench scaling --config tiny --sizes 128,256,384,512 --tokens 256,1024,4096 --cache build/scaling --out scaling"


@app.command(epilog=EXAMPLE)
def scaling(
    out: Annotated[Path, typer.Option(help="Folder for scaling.json and scaling.png.")],
    config: Annotated[str, typer.Option(help="nano, tiny, small or base; its weights are random.")] = "tiny",
    sizes: Annotated[str, typer.Option(help="Sides of square images in pixels, with commas between them.")] = "128,256,384,512",
    tokens: Annotated[str, typer.Option(help="Latent tokens, square numbers, to compare the dense and the chunked SSM at, and the latter without the shared attention; empty for none.")] = "",
    precision: Annotated[str, typer.Option(help="fp32 or int8, of the sizes; tokens are compared in fp32.")] = "fp32",
    cache: Annotated[Path, typer.Option(help="Folder that keeps the bundles between runs.")] = Path("build/scaling"),
    runs: Annotated[int, typer.Option(min=1, help="Warm images per point.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the engine.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing result.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:  # fmt: skip
    """Build a configuration with random weights at several sizes, measure each, and fit power laws."""
    from rich.console import Console

    from microforge.io.atomic import atomic_folder, check_output
    from microforge.spec import check_size, preset
    from microforge_benchmarks.report.plots import figure
    from microforge_benchmarks.studies.scaling import Plan, run_plan, tokens_side
    from microforge_benchmarks.studies.scaling_view import scaling_plot, scaling_table

    check_output(out, force)
    figure(1.0)  # says now, not in an hour, that matplotlib is missing
    downsample = preset(config).vae.downsample
    plan = Plan(
        config, counts(sizes, "--sizes"), counts(tokens, "--tokens"), cache, runs, threads, as_precision(precision)
    )  # fmt: skip
    for side in (*plan.sides, *(tokens_side(count, downsample) for count in plan.tokens)):
        check_size(side, side, downsample)
    if not (plan.sides or plan.tokens):
        raise SpecError("nothing to measure: give --sizes, --tokens or both")
    values = run_plan(plan, say)
    with atomic_folder(out, force, marker=FILE) as folder:
        (folder / FILE).write_text(json_module.dumps(values, indent=1) + "\n", "utf-8")
        (folder / PLOT).write_bytes(scaling_plot(values))
    if json:
        print_json({"out": str(out.absolute()), **values})
        return
    Console(stderr=True).print(scaling_table(values))
    print((out / PLOT).absolute())


def as_precision(text: str) -> Precision:
    """One of the precisions that a random bundle can have.

    Raises:
        SpecError: for another word.
    """
    if text not in get_args(Precision):
        raise SpecError(f"--precision is {text!r}; allowed: {', '.join(get_args(Precision))}")
    return cast("Precision", text)


def counts(text: str, option: str) -> tuple[int, ...]:
    """Rising whole numbers of a list with commas; empty for an empty text.

    Raises:
        SpecError: for anything else.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isascii() and word.isdecimal() and 1 <= int(word[:9]) for word in words):
        raise SpecError(f"{option} is {text!r}; write whole numbers with commas, as 256,1024")
    return tuple(sorted({int(word[:9]) for word in words}))
