"""Command line of ``mf-bench against``; heavy packages are imported inside the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import command_app, print_json, say

app = command_app("Compare a bundle with PyTorch and with other models.")
FILE, PLOT = "baselines.json", "baselines.png"
EXAMPLE = (
    "Example: mf-bench against model.mfb --with torch-eager,sd-turbo --cache build/baselines --out baselines"
)
COMPARISON, OUTPUT = "Comparison", "Output"


@app.command(epilog=EXAMPLE)
def baselines(
    bundle: Annotated[Path, typer.Argument(help="Bundle made by mf-export build, with the target onnx.")],
    out: Annotated[Path, typer.Option(help="Folder for baselines.json and baselines.png.", rich_help_panel=OUTPUT)],
    names: Annotated[str, typer.Option("--with", help="torch-eager, torch-compile, sd-turbo, bk-sdm-tiny, separated by commas.", rich_help_panel=COMPARISON)] = "torch-eager,torch-compile,sd-turbo,bk-sdm-tiny",
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint that the bundle was built from, for PyTorch; the shipped student by default.", rich_help_panel=COMPARISON)] = None,
    size: Annotated[str | None, typer.Option(help="128 or 128x256 (height x width), if the bundle has several sizes.", rich_help_panel=COMPARISON)] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Images per model; the models take turns.", rich_help_panel=COMPARISON)] = 10,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every engine.", rich_help_panel=COMPARISON)] = 1,
    cache: Annotated[Path, typer.Option(help="Folder that keeps the exported models (sd-turbo: 3.5 GB).", rich_help_panel=OUTPUT)] = Path("build/baselines"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing result.", rich_help_panel=OUTPUT)] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.", rich_help_panel=OUTPUT)] = False,
) -> None:  # fmt: skip
    """Time a bundle, the same model in PyTorch, and the compute of other models, in turn, at one size and steps."""
    from rich.console import Console

    from microforge.bundle.files import load_bundle
    from microforge.io.atomic import atomic_folder, check_output
    from microforge.spec import parse_size
    from microforge_benchmarks.report.plots import figure
    from microforge_benchmarks.studies.baselines import BaselineSettings, check_names, run_comparison
    from microforge_benchmarks.studies.baselines_view import baselines_plot, baselines_table

    check_output(out, force)
    figure(1.0)  # reports a missing matplotlib now and not after an hour
    chosen, opened = check_names(names), load_bundle(bundle)
    opened.target("onnx")
    pixels = None if size is None else parse_size(size, opened.manifest.latent.downsample)
    report = run_comparison(opened, BaselineSettings(chosen, cache, checkpoint, pixels, rounds, threads), say)
    with atomic_folder(out, force, marker=FILE) as folder:
        (folder / FILE).write_text(report.model_dump_json(indent=1) + "\n", "utf-8")
        (folder / PLOT).write_bytes(baselines_plot(report))
    if json:
        print_json({"out": str(out.absolute()), **report.model_dump(mode="json")})
        return
    Console(stderr=True).print(baselines_table(report))
    print((out / PLOT).absolute())
