"""Command line of ``mf-bench profile``; heavy packages are imported inside the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import command_app, print_json, say

app = command_app("Show where the time of one image goes, and how far it is from what the processor can do.")
FILE, TABLE = "profile.json", "profile.md"
EXAMPLE = "Example: mf-bench profile model.mfb --out profile --target onnx,executorch --threads 1,2"
ENGINE, MEASUREMENT, OUTPUT = "Engine", "Measurement", "Output"


@app.command(epilog=EXAMPLE)
def profile(
    bundle: Annotated[Path, typer.Argument(help="Bundle made by mf-export build.")],
    out: Annotated[Path, typer.Option(help="Folder for profile.json and profile.md.", rich_help_panel=OUTPUT)],
    target: Annotated[str, typer.Option(help="Engines, separated by commas: onnx, executorch.", rich_help_panel=ENGINE)] = "onnx",
    size: Annotated[str | None, typer.Option(help="128 or 128x256 (height x width), if the bundle has several sizes.", rich_help_panel=ENGINE)] = None,
    threads: Annotated[str, typer.Option(help="CPU threads of the engine: one count, or several separated by commas.", rich_help_panel=ENGINE)] = "1",
    images: Annotated[int, typer.Option(min=1, max=1000, help="Images without the profiler, and evaluations with it.", rich_help_panel=MEASUREMENT)] = 20,
    rows: Annotated[int, typer.Option(min=1, help="Kinds of operators in the table; the others are added up.", rich_help_panel=OUTPUT)] = 12,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing result.", rich_help_panel=OUTPUT)] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.", rich_help_panel=OUTPUT)] = False,
) -> None:  # fmt: skip
    """Time whole images, their operators by kind, and the rates of the processor. Run it on a quiet machine."""
    import json as json_module

    from rich.console import Console

    from microforge.bundle.files import load_bundle
    from microforge.io.atomic import atomic_folder, check_output
    from microforge.spec import parse_size
    from microforge_benchmarks.studies.image_profile import profile_bundle
    from microforge_benchmarks.studies.image_profile_view import markdown, profile_table
    from microforge_benchmarks.thread_counts import thread_counts

    check_output(out, force)
    opened = load_bundle(bundle)
    pixels = None if size is None else parse_size(size, opened.manifest.latent.downsample)
    counts = [count or 1 for count in thread_counts(threads)]
    profiles = profile_bundle(opened, tuple(target.split(",")), pixels, counts, images, say)
    with atomic_folder(out, force, marker=FILE) as folder:
        values = [item.model_dump(mode="json") for item in profiles]
        (folder / FILE).write_text(json_module.dumps(values, indent=1) + "\n", "utf-8")
        (folder / TABLE).write_text(markdown(profiles, rows), "utf-8")
    if json:
        print_json({"out": str(out.absolute()), "profiles": values})
        return
    for item in profiles:
        Console(stderr=True).print(profile_table(item, rows))
    print((out / TABLE).absolute())
