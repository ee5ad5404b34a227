"""Command line of the comparison of a bundle on emulated 64-bit Arm with x86-64; ``make arm64`` runs it.

    python -m microforge_benchmarks.studies.arm64.cli BUNDLE... --out FILE

Exit code 1 when an image differs from that of x86-64 by more than its precision allows. Heavy packages are imported
inside the command.
"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microforge.io.console import DONE, FELL_SHORT, command_app, print_json, run, say

if TYPE_CHECKING:
    from rich.table import Table

    from microforge_benchmarks.studies.arm64.compare import Arm64Report

app = command_app("Compare a bundle's image on emulated 64-bit Arm with that on x86-64.")
EXAMPLE = (
    "Example: python -m microforge_benchmarks.studies.arm64.cli model.mfb --work build/arm64 --out arm64.json"
)


@app.command(epilog=EXAMPLE)
def arm64(
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundles made by mf-export build, with the target onnx.", metavar="BUNDLE...")
    ],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    work: Annotated[
        Path, typer.Option(help="Folder that keeps the Arm Python and its wheels (400 MB).")
    ] = Path("build/arm64"),
    prompt: Annotated[str, typer.Option(help="The prompt.")] = "a red circle left of a blue square",
    seed: Annotated[int, typer.Option(help="The seed, 0 to 2**64 - 1.")] = 0,
    engine: Annotated[
        str | None,
        typer.Option(help="Version of ONNX Runtime on Arm; by default one that runs under QEMU."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Timeout of one image in seconds; an emulator is slow.")
    ] = 3600.0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing result.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> int:  # fmt: skip
    """Generate an image with each bundle in an Arm engine under qemu-user, and compare it with that on x86-64."""
    from dataclasses import asdict

    from rich.console import Console

    from microforge.bundle.files import load_bundle
    from microforge.io.atomic import atomic_bytes, check_output
    from microforge_benchmarks.studies.arm64.emulation import check_tools
    from microforge_benchmarks.studies.arm64.run import SampleSettings, run_all

    check_output(out, force)
    opened = [load_bundle(path) for path in bundles]
    settings = SampleSettings(prompt, seed, timeout)
    for bundle in opened:
        settings.check(bundle)
    check_tools()
    report = run_all(opened, settings, work, engine, say)
    values = asdict(report)
    atomic_bytes(out, (json_module.dumps(values, indent=1) + "\n").encode(), force)
    if json:
        print_json({"out": str(out.absolute()), "passed": report.passed, **values})
    else:
        Console(stderr=True).print(arm64_table(report))
        print(out.absolute())
    return DONE if report.passed else FELL_SHORT


def arm64_table(report: Arm64Report) -> Table:
    """Table with one row per comparison."""
    from rich import box
    from rich.table import Table

    reference = report.comparisons[0].reference_engine
    title = f"compared with {reference.architecture}, ONNX Runtime {reference.onnxruntime}"
    table = Table("model", "engine", "noise", title=title, box=box.SIMPLE)
    for heading in ("latent dB", "image dB", "limit dB", "largest pixel difference", ""):
        table.add_column(heading, justify="right")
    for item in report.comparisons:
        difference = item.difference
        noise = f"{difference.noise_ulp} ULP" if difference.noise_ulp else "equal"
        table.add_row(
            f"{item.model} {item.precision}", f"{item.tested_engine.architecture} {item.tested_engine.onnxruntime}",
            noise if difference.words_equal else "differs", decibels(difference.latent_db), decibels(difference.image_db),
            f"{item.least_db:g}", str(difference.pixels_max), "passed" if item.passed else "failed",
        )  # fmt: skip
    return table


def decibels(value: float | None) -> str:
    """PSNR with one decimal; "equal" where nothing differs."""
    return "equal" if value is None else f"{value:.1f}"


def main() -> None:
    """Entry point of the module."""
    run(app)


if __name__ == "__main__":
    main()
