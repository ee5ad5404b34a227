"""Command line of ``mf-bench scaling``; heavy packages are imported inside the command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from microforge.errors import SpecError
from microforge.io.console import command_app, print_json, say

if TYPE_CHECKING:
    from microforge_benchmarks.measure.random_bundles import Precision

app = command_app("Measure time and memory against image size and number of tokens.")
FILE, PLOT = "scaling.json", "scaling.png"
EXAMPLE = "Example: mf-bench scaling --config tiny --sizes 128,256,384,512 --tokens 256,1024,4096 --cache build/scaling --out scaling"
MODEL, MEASUREMENT, OUTPUT = "Models", "Measurement", "Output"


@app.command(epilog=EXAMPLE)
def scaling(
    out: Annotated[Path, typer.Option(help="Folder for scaling.json and scaling.png.", rich_help_panel=OUTPUT)],
    config: Annotated[str, typer.Option(help="nano, tiny, small or base; its weights are random.", rich_help_panel=MODEL)] = "tiny",
    sizes: Annotated[str, typer.Option(help="Sides of square images in pixels, separated by commas.", rich_help_panel=MODEL)] = "128,256,384,512",
    tokens: Annotated[str, typer.Option(help="Numbers of latent tokens (squares) at which to compare the forms of the SSM: dense, chunked, and chunked without shared attention; none by default.", rich_help_panel=MODEL)] = "",
    precision: Annotated[str, typer.Option(help="fp32 or int8, for --sizes; --tokens are compared in fp32.", rich_help_panel=MODEL)] = "fp32",
    cache: Annotated[Path, typer.Option(help="Folder that keeps the bundles between runs.", rich_help_panel=OUTPUT)] = Path("build/scaling"),
    runs: Annotated[int, typer.Option(min=1, help="Warm images per point.", rich_help_panel=MEASUREMENT)] = 5,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the engine.", rich_help_panel=MEASUREMENT)] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing result.", rich_help_panel=OUTPUT)] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.", rich_help_panel=OUTPUT)] = False,
) -> None:  # fmt: skip
    """Build a configuration with random weights at several sizes, measure each, and fit power laws."""
    from rich.console import Console

    from microforge.io.atomic import atomic_folder, check_output
    from microforge.spec import check_size, preset
    from microforge_benchmarks.report.plots import figure
    from microforge_benchmarks.studies.scaling import ScalingPlan, run_scaling, tokens_side
    from microforge_benchmarks.studies.scaling_view import scaling_plot, scaling_table

    check_output(out, force)
    figure(1.0)  # reports a missing matplotlib now and not after an hour
    downsample = preset(config).vae.downsample
    plan = ScalingPlan(
        config, counts(sizes, "--sizes"), counts(tokens, "--tokens"), cache, runs, threads, as_precision(precision)
    )  # fmt: skip
    for side in (*plan.sides, *(tokens_side(count, downsample) for count in plan.tokens)):
        check_size(side, side, downsample)
    if not (plan.sides or plan.tokens):
        raise SpecError("nothing to measure: give --sizes, --tokens or both")
    report = run_scaling(plan, say)
    with atomic_folder(out, force, marker=FILE) as folder:
        (folder / FILE).write_text(report.model_dump_json(indent=1) + "\n", "utf-8")
        (folder / PLOT).write_bytes(scaling_plot(report))
    if json:
        print_json({"out": str(out.absolute()), **report.model_dump(mode="json")})
        return
    Console(stderr=True).print(scaling_table(report))
    print((out / PLOT).absolute())


def as_precision(text: str) -> Precision:
    """``text`` as a precision of random bundles.

    Raises:
        SpecError: when it is none.
    """
    from microforge_benchmarks.measure.random_bundles import Precision

    if text not in get_args(Precision):
        raise SpecError(f"--precision is {text!r}; allowed: {', '.join(get_args(Precision))}")
    return cast(Precision, text)


def counts(text: str, option: str) -> tuple[int, ...]:
    """Positive integers of a list with commas, sorted and without duplicates; empty for an empty text.

    Raises:
        SpecError: when ``text`` has another form.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isascii() and word.isdecimal() and 1 <= int(word[:9]) for word in words):
        raise SpecError(f"{option} is {text!r}; write whole numbers with commas, as 256,1024")
    return tuple(sorted({int(word[:9]) for word in words}))
