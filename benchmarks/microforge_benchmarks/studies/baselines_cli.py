"""``mf-bench against``: thin; everything heavy is imported inside the command."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from microforge.io.console import command_app, print_json, say

app = command_app("A bundle beside PyTorch and beside other models.")
FILE, PLOT = "against.json", "against.png"
EXAMPLE = "Example: mf-bench against model.mfb --with torch-eager,sd-turbo --cache build/rivals --out against"


@app.command(epilog=EXAMPLE)
def against(
    bundle: Annotated[Path, typer.Argument(help="Folder made by mf-export build, with onnx in it.")],
    out: Annotated[Path, typer.Option(help="Folder for against.json and against.png.")],
    others: Annotated[str, typer.Option("--with", help="torch-eager, torch-compile, sd-turbo, bk-sdm-tiny, with commas between them.")] = "torch-eager,torch-compile,sd-turbo,bk-sdm-tiny",
    cache: Annotated[Path, typer.Option(help="Folder that keeps the exported rivals (sd-turbo: 3.5 GB).")] = Path("build/rivals"),
    checkpoint: Annotated[Path | None, typer.Option(help="The bundle's own, for PyTorch; the shipped model when omitted.")] = None,
    size: Annotated[str | None, typer.Option(help="128 or 128x256 (height x width), if there are several.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Images that each of them draws, in turn.")] = 10,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every engine.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing result.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:  # fmt: skip
    """Time a bundle, the same model in PyTorch, and other models' compute, in turn, at the same size and steps."""
    from rich.console import Console
    from rich.table import Table

    from microforge.bundle.files import load_bundle
    from microforge.io.atomic import atomic_folder, check_output
    from microforge.spec import parse_size
    from microforge_benchmarks.report.plots import figure
    from microforge_benchmarks.studies.baselines import Contest, check_names, lines, run_contest

    check_output(out, force)
    figure(1.0)  # says now, not in an hour, that matplotlib is missing
    names, opened = check_names(others), load_bundle(bundle)
    opened.target("onnx")
    pixels = None if size is None else parse_size(size, opened.manifest.latent.downsample)
    contest = Contest(names, cache, checkpoint, pixels, rounds, threads)
    values = run_contest(opened, contest, say)
    with atomic_folder(out, force, marker=FILE) as folder:
        (folder / FILE).write_text(json_module.dumps(values, indent=1) + "\n", "utf-8")
        (folder / PLOT).write_bytes(against_plot(values))
    if json:
        print_json({"out": str(out.absolute()), **values})
        return
    table = Table("", "s an image", "times ours", "peak MB", "compared for")
    for line in lines(values):
        table.add_row(line.name, line.seconds, line.times, line.memory, line.claim)
    Console(stderr=True).print(table)
    print((out / PLOT).absolute())


def against_plot(values: Mapping[str, Any]) -> bytes:
    """Two panels of bars, PNG: seconds an image and peak memory, ours first."""
    from microforge_benchmarks.report.plots import BLUE, GREY, MB, figure, finish, png

    entries = values["entries"]
    fig = figure(1.2 + 0.4 * len(entries))
    time, memory = fig.subplots(1, 2)
    panels = (
        (time, "Seconds an image", [(entry["name"], entry["seconds"]["median"]) for entry in entries], "{:,.3f}"),
        (memory, "Peak memory of the process, MB", [(entry["name"], entry["peak_rss"] / MB) for entry in entries if entry["peak_rss"]], "{:,.0f}"),
    )  # fmt: skip
    for axes, title, bars, form in panels:
        names, heights = [name for name, _ in bars], [height for _, height in bars]
        drawn = axes.barh(
            names, heights, color=[BLUE if name == entries[0]["name"] else GREY for name in names]
        )
        axes.bar_label(drawn, fmt=form, padding=4)
        axes.margins(x=0.25)
        axes.invert_yaxis()
        finish(axes, title)
    fig.suptitle(
        f"{values['model']} {values['precision']}, {values['size']}, {values['steps']} steps, "
        f"threads: {values['threads']}; other models: compute and memory only", fontsize=9,
    )  # fmt: skip
    return png(fig)
