"""A bundle on emulated 64-bit Arm beside x86-64: ``python -m microforge_benchmarks.studies.arm64.cli BUNDLE... --out FILE``.

``make arm64`` runs it. Exit 1 when an image is further from x86-64's than its precision allows. Thin; the heavy
imports are inside.
"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microforge.io.console import DONE, FELL_SHORT, command_app, print_json, run, say

if TYPE_CHECKING:
    from rich.table import Table

    from microforge_benchmarks.studies.arm64.compare import Report

app = command_app("A bundle's drawing on emulated 64-bit Arm beside the same on x86-64.")
EXAMPLE = (
    "Example: python -m microforge_benchmarks.studies.arm64.cli model.mfb --work build/arm64 --out arm64.json"
)


@app.command(epilog=EXAMPLE)
def arm64(
    bundles: Annotated[
        list[Path], typer.Argument(help="Folders made by mf-export build, with onnx in them.", metavar="BUNDLE...")
    ],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    work: Annotated[
        Path, typer.Option(help="Folder that keeps the Arm Python and its wheels (400 MB).")
    ] = Path("build/arm64"),
    prompt: Annotated[str, typer.Option(help="What the image shows.")] = "a red circle left of a blue square",
    seed: Annotated[int, typer.Option(help="0 to 2**64 - 1.")] = 0,
    engine: Annotated[
        str | None,
        typer.Option(help="Version of ONNX Runtime on Arm; one that is known to run under QEMU when omitted."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that one drawing may take; an emulator is slow.")
    ] = 3600.0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing result.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> int:  # fmt: skip
    """Draw one image per bundle, at its first size, in an Arm engine under qemu-user and compare it with x86-64's."""
    from dataclasses import asdict

    from rich.console import Console

    from microforge.bundle.files import load_bundle
    from microforge.io.atomic import atomic_bytes, check_output
    from microforge_benchmarks.studies.arm64.emulation import check_tools
    from microforge_benchmarks.studies.arm64.run import Wish, run_all

    check_output(out, force)
    opened = [load_bundle(path) for path in bundles]
    wish = Wish(prompt, seed, timeout)
    for bundle in opened:
        wish.check(bundle)
    check_tools()
    report = run_all(opened, wish, work, engine, say)
    values = asdict(report)
    atomic_bytes(out, (json_module.dumps(values, indent=1) + "\n").encode(), force)
    if json:
        print_json({"out": str(out.absolute()), "passed": report.passed, **values})
    else:
        Console(stderr=True).print(arm64_table(report))
        print(out.absolute())
    return DONE if report.passed else FELL_SHORT


def arm64_table(report: Report) -> Table:
    """One row per comparison."""
    from rich import box
    from rich.table import Table

    reference = report.comparisons[0].reference
    title = f"against {reference.architecture}, ONNX Runtime {reference.onnxruntime}"
    table = Table("model", "drawn on", "noise", title=title, box=box.SIMPLE)
    for heading in ("latent dB", "image dB", "needed", "of 255", ""):
        table.add_column(heading, justify="right")
    for item in report.comparisons:
        found = item.difference
        noise = f"{found.noise_ulp} ULP" if found.noise_ulp else "equal"
        table.add_row(
            f"{item.model} {item.precision}", f"{item.subject.architecture} {item.subject.onnxruntime}",
            noise if found.words_equal else "differs", decibels(found.latent_db), decibels(found.image_db),
            f"{item.least_db:g}", str(found.pixels_max), "passed" if item.passed else "fell short",
        )  # fmt: skip
    return table


def decibels(value: float | None) -> str:
    """One digit; a difference of nothing has no level."""
    return "equal" if value is None else f"{value:.1f}"


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
