"""``mf-export doctor``: compares the installed packages with the versions that were tested together."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

from microforge.io.console import say, say_error
from microforge_export.commands import options
from microforge_export.commands.output import print_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from microforge.bundle.targets import TargetName
    from microforge_export.environment import Installation


def doctor(target: options.DoctorTargets = None, json: options.Json = False) -> int:
    """List the versions that were tested together, what differs here, and the pip command that mends it.

    The exit code is 1 if a package that a build needs is missing, or installed in an untested version. Packages of
    other engines may be missing unless --target names their engine.
    """
    from microforge.io.console import DONE, FELL_SHORT
    from microforge_export.environment import pip_line, read_environment

    targets = _targets(target)
    environment = read_environment()
    problems = environment.problems(targets)
    print_result(json, _values(environment, targets), _table(environment))
    for item in problems:
        state = "is not installed" if item.installed is None else f"is installed in version {item.installed}"
        say_error(f"{item.name} {state}; tested: {item.tested or 'any version'}")
    if problems:
        say(f"to mend it: {pip_line(problems)}")
    return FELL_SHORT if problems else DONE


def _targets(text: str | None) -> tuple[TargetName, ...]:
    from microforge.errors import SpecError
    from microforge_export.environment import TARGETS

    names = tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    for name in names:
        if name not in TARGETS:
            raise SpecError(f"target {name!r} is unknown; allowed: {', '.join(TARGETS)}")
    return typing.cast("tuple[TargetName, ...]", names)


def _values(environment: Installation, targets: Sequence[TargetName]) -> dict[str, Any]:
    from microforge_export.environment import TARGETS, pip_line

    problems = environment.problems(targets)
    return {
        "ok": not problems,
        "microforge": environment.microforge,
        "python": environment.python,
        "system": environment.system,
        "targets": {name: environment.usable(name) for name in TARGETS},
        "packages": [
            {
                "name": item.name,
                "tested": item.tested,
                "installed": item.installed,
                "status": item.status,
                "extras": sorted(item.extras - {""}),
                "matters": item in problems,
            }
            for item in environment.packages
        ],
        "pip": pip_line(problems),
    }


def _table(environment: Installation) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    from microforge_export.environment import TARGETS

    table = Table("package", "tested", "installed", "status", "needed by")
    for item in environment.packages:
        needed = "every installation" if "" in item.extras else ", ".join(sorted(item.extras))
        style = "" if item.status == "tested" else "yellow"
        table.add_row(
            item.name, item.tested or "any", item.installed or "-", item.status, needed, style=style
        )
    usable = [f"{name}: {'usable' if environment.usable(name) else 'not usable'}" for name in TARGETS]
    return Group(
        f"microforge {environment.microforge}, Python {environment.python}, {environment.system}",
        table,
        f"Targets: {', '.join(usable)}",
    )
