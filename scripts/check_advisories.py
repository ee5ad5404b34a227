"""Says whether pip-audit's report (JSON) covers every package and names no vulnerability.

    python scripts/check_advisories.py advisories.json OWN_PACKAGE

pip-audit passes over packages that its service does not know and still ends with "No known vulnerabilities found".
Exit code 0: every package but OWN_PACKAGE was looked up, nothing is known; 1: vulnerabilities, or packages that were not
looked up, which are named; 3: not a single package was looked up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Judge the report; the return value is the exit code."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    report, own_package = arguments
    packages = json.loads(Path(report).read_text("utf-8"))["dependencies"]
    packages = [package for package in packages if package["name"] != own_package]
    skipped = sorted(package["name"] for package in packages if "skip_reason" in package)
    known = [f"{package['name']}: {item['id']}" for package in packages for item in package.get("vulns", [])]
    if len(skipped) == len(packages):
        print(f"error: none of {len(packages)} packages could be looked up, see {report}", file=sys.stderr)
        return 3
    for line in known:
        print(f"error: known vulnerability of {line}", file=sys.stderr)
    if skipped:
        print(f"error: not looked up: {', '.join(skipped)}", file=sys.stderr)
    if known or skipped:
        return 1
    print(f"{len(packages)} packages, no known vulnerability", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
