"""``mf-data``: thin; everything heavy is imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import command_app, print_json, run

app = command_app("Make data sets for training.")

EXAMPLES = """Examples:

mf-data stickers --out stickers   (fetches the packages with npm, about 30 MB, then renders some 7,000 pictures)

mf-data stickers --out stickers --packages FOLDER   (the packages are there already; see docs/data.md)

mf-train vae --init pretrained --data scenes+stickers:stickers --out runs/mine   (train on shapes and stickers)
"""


@app.callback()
def _group() -> None:
    """Make data sets for training."""


@app.command(epilog=EXAMPLES)
def stickers(
    out: Annotated[Path, typer.Option(help="Folder to make; an interrupted one is continued.")],
    packages: Annotated[Path | None, typer.Option(
        help="Folder with the npm packages (node_modules, unpacked, or .tgz); fetched with npm when left out.")] = None,
    side: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 256,
    force: Annotated[bool, typer.Option("--force", help="Start over in a finished folder.")] = False,
    json: Annotated[bool, typer.Option(
        "--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:  # fmt: skip
    """Render emoji from freely licensed sets as RGBA pictures with names in six languages."""
    from rich.console import Console

    from microforge.data.stickers.emoji.build import build_stickers

    console = Console(stderr=True)
    result = build_stickers(out, side, packages, force, console)
    if result.left_out:
        first = "; ".join(result.left_out[:3])
        console.print(
            f"{len(result.left_out)} pictures left out: {first}; ...", markup=False, highlight=False
        )
    if json:
        print_json({
            "folder": str(result.folder.absolute()), "pictures": result.pictures, "subjects": result.subjects,
            "styles": list(result.styles), "left_out": len(result.left_out),
        })  # fmt: skip
    else:
        print(result.folder)


def main() -> None:
    """Entry point of ``mf-data``."""
    run(app)


if __name__ == "__main__":
    main()
