"""Checks that the list of the wheel's packages (SBOM) names every package that the project declares.

    python scripts/check_sbom.py SBOM.json PYPROJECT.toml [EXTRA ...]

Exit code 0: it does; 1: packages are missing, which are named.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path


def normalized(name: str) -> str:
    """The name of a package as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(pyproject: Path, extras: list[str]) -> set[str]:
    """Normalized names of the dependencies in ``pyproject.toml``, and of those of ``extras``."""
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    names = {normalized(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in lines}
    return names - {normalized(project["name"])}  # an extra may name extras of the project itself


def listed(sbom: Path) -> set[str]:
    """Normalized names of the components of a CycloneDX file."""
    return {normalized(part["name"]) for part in json.loads(sbom.read_text("utf-8"))["components"]}


def main(arguments: list[str]) -> int:
    """Compare the two files; the return value is the exit code."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    sbom, pyproject, *extras = arguments
    components = listed(Path(sbom))
    missing = sorted(declared(Path(pyproject), extras) - components)
    if missing:
        print(f"error: {sbom} lacks {', '.join(missing)}", file=sys.stderr)
        return 1
    print(f"{sbom}: {len(components)} packages", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
