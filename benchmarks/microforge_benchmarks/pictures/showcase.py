"""Command line that makes the documentation's pictures; heavy packages are imported inside the command.

python -m microforge_benchmarks.pictures.showcase model.mfb --out docs/images/samples.png
python -m microforge_benchmarks.pictures.showcase model.mfb --task edit --out docs/images/edit.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import command_app, run

app = command_app("Make the documentation's pictures.")


@app.command(epilog="Example: python -m microforge_benchmarks.pictures.showcase model.mfb --out samples.png")
def main(
    model: Annotated[Path, typer.Argument(help="Bundle made by mf-export build; with --task also a checkpoint.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    task: Annotated[str, typer.Option(help="generate; or edit, inpaint, super-resolve: sources above their results.")] = "generate",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing picture.")] = False,
) -> None:  # fmt: skip
    """Make one of the documentation's pictures."""
    from microforge.evaluation.contact_sheet import png_bytes
    from microforge.io.atomic import atomic_bytes, check_output
    from microforge_benchmarks.pictures.sample_grid import sample_grid
    from microforge_benchmarks.pictures.strip import strip

    check_output(out, force)
    picture = sample_grid(model) if task == "generate" else strip(model, task)
    atomic_bytes(out, png_bytes(picture), force)


if __name__ == "__main__":
    run(app)
