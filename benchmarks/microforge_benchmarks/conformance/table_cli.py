"""Command line of the table of runtimes; ``make conformance`` runs it. Heavy packages are imported inside the command.

python -m microforge_benchmarks.conformance.table_cli BUNDLE... --report KOTLIN.json --out conformance
"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import DONE, FELL_SHORT, command_app, print_json, run, say

app = command_app("Replay the golden trajectories of bundles and write the table of all runtimes.")
EXAMPLE = (
    "Example: python -m microforge_benchmarks.conformance.table_cli build/microforge.mfb --out conformance"
)


@app.command(epilog=EXAMPLE)
def table(
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundles made by mf-export build, with the target onnx.", metavar="BUNDLE...")
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.json and RESULTS.md, which are replaced.")],
    report: Annotated[
        list[Path] | None, typer.Option(help="Report of another runtime on the same bundles; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> int:  # fmt: skip
    """Replay the bundles with the Python runtime, add the reports of others, and write the table; exit 1 on a failure."""
    from microforge.io.atomic import atomic_bytes
    from microforge_benchmarks.conformance.python_runtime import python_report
    from microforge_benchmarks.conformance.results import ConformanceResults, read_report, results_page

    others = [read_report(path) for path in report or []]
    results = ConformanceResults(runtimes=(python_report(bundles), *others))
    values = results.model_dump(mode="json")
    atomic_bytes(out / "results.json", (json_module.dumps(values, indent=1) + "\n").encode(), force=True)
    atomic_bytes(out / "RESULTS.md", results_page(results).encode(), force=True)
    say(f"{out / 'RESULTS.md'}: {'all passed' if results.passed else 'some FAILED'}")
    if json:
        print_json({"out": str(out), "passed": results.passed, **values})
    return DONE if results.passed else FELL_SHORT


def main() -> None:
    """Entry point of the module."""
    run(app)


if __name__ == "__main__":
    main()
