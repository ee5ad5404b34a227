"""Command line of the conformance kit. Heavy packages are imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import DONE, command_app, print_json, run, say

app = command_app("Write the golden files that every runtime replays.")
EXAMPLE = "Example: python -m microforge_benchmarks.conformance conformance"


@app.command(epilog=EXAMPLE)
def golden(
    out: Annotated[Path, typer.Argument(help="Folder for the golden files; what differs is replaced.", metavar="OUT")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> int:  # fmt: skip
    """Write noise, token ids, sampler tables and manifests to refuse, as conformance/CONFORMANCE.md describes them."""
    from microforge_benchmarks.conformance.golden_files import write_golden_files

    sizes = write_golden_files(out)
    say(f"{out}: {len(sizes)} golden files, {sum(sizes.values()):,} bytes")
    if json:
        print_json({"out": str(out), "files": sizes})
    return DONE


def main() -> None:
    """Entry point of ``python -m microforge_benchmarks.conformance``."""
    run(app)
