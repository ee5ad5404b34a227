"""Command-line options that ``mf-train`` and ``mf-export distill`` share, as annotated types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microforge.io.console import print_json

if TYPE_CHECKING:
    from microforge.io.settings_file import SettingNote

#: Panels of ``--help``.
TRAINED, SETTINGS, RUN = "Training", "Settings", "Run"

Data = Annotated[
    str | None,
    typer.Option(
        help="scenes (the built-in world, the default), stickers:FOLDER, a folder of captioned images, or .tar shards.",
        metavar="SOURCE",
        rich_help_panel=TRAINED,
    ),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        help="TOML file with settings; for all: a curriculum.",
        metavar="FILE.toml",
        rich_help_panel=SETTINGS,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change one setting, e.g. --set batch=32 --set optimizer.kind=muon; repeatable.",
        metavar="KEY=VALUE",
        rich_help_panel=SETTINGS,
    ),
]
ListSettings = Annotated[
    bool,
    typer.Option(
        "--list-settings",
        help="List every settings key with its default and meaning, and exit.",
        rich_help_panel=SETTINGS,
    ),
]
Bf16 = Annotated[
    bool,
    typer.Option(
        "--bf16",
        help="bfloat16 autocast; faster where the CPU or GPU supports it.",
        rich_help_panel=RUN,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the memory that the run would need; train nothing.", rich_help_panel=RUN
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in the output folder.", rich_help_panel=RUN)
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Discard the run in the output folder and start over; caches that still match are preserved.",
        rich_help_panel=RUN,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON object on the last line of stdout.", rich_help_panel=RUN
    ),
]


def print_settings(notes: Sequence[SettingNote], json: bool) -> None:
    """Print the settings keys of a command, as a table or as JSON."""
    if json:
        values: Mapping[str, dict[str, str]] = {
            note.key: {"type": note.type, "default": note.default, "meaning": note.meaning} for note in notes
        }
        print_json(values)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("key", "type", "default", "meaning")
    for note in notes:
        table.add_row(note.key, note.type, note.default, note.meaning)
    Console().print(table)
