"""Adds up the parts of a run of Apple's MIL operator tests (``mil_plugin``) into one file of counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from microforge.io.atomic import atomic_bytes
from microforge.io.console import command_app, run

app = command_app("Add up the parts of a run of the MIL operator tests.")


@app.command(
    epilog="Example: python tests/external/mil_summary.py build/external/mil-*.json --parts 24 --out mil.json"
)
def main(
    results: Annotated[list[Path], typer.Argument(help="Files that mil_plugin wrote, one per part.")],
    parts: Annotated[int, typer.Option(help="Parts that a whole run has.")],
    out: Annotated[Path, typer.Option(help="JSON file with the counts.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> int:
    """Add up outcomes and refusals; exit code 1 when a case was wrong or crashed."""
    outcomes: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    defects: set[str] = set()
    for path in results:
        values = json.loads(path.read_text("utf-8"))
        outcomes.update(values["outcomes"])
        refusals.update(values["refusals"])
        defects.update(values["defects"])
    summary = {
        "parts": f"{len(results)} of {parts}",
        "outcomes": dict(sorted(outcomes.items())),
        "refusals": dict(refusals.most_common()),
        "defects": sorted(defects),
    }
    atomic_bytes(out, (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode(), force)
    print(out)
    return 1 if outcomes["wrong"] or outcomes["crashed"] or defects else 0


if __name__ == "__main__":
    run(app)
