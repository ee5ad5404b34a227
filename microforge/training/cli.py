"""``mf-train``: thin; everything heavy is imported inside the command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microforge.io.console import command_app, print_json, run
from microforge.training.options import (
    TRAINED,
    Assignments,
    Bf16,
    Data,
    DryRun,
    Force,
    Json,
    ListSettings,
    Resume,
    SettingsFile,
    print_settings,
)

if TYPE_CHECKING:
    from microforge.training.runs.request import TrainRequest

app = command_app("Train MicroForge, one stage at a time or all of them.")

EXAMPLES = """Examples:

mf-train vae --config nano --out runs/nano --bf16   (first: images to latents)

mf-train flow --config nano --out runs/nano --bf16   (then: captions to latents; runs/nano/flow/checkpoint is the model)

mf-train kd --config nano --out runs/nano --teacher runs/big/flow/checkpoint   (optional: learn from a larger model)

mf-train edit --config nano --out runs/nano --bf16   (optional, after flow: edit, inpaint and super-resolve)

mf-train reward --init pretrained --teacher student --out runs/mine --bf16   (optional: learn from the oracle's verdicts)

mf-train rewrite --init pretrained --teacher student --out runs/mine --bf16   (optional: settle ambiguous prompts)

mf-train all --config tiny --out runs/tiny   (the whole curriculum; --settings FILE.toml for your own)

mf-train flow --init pretrained --out runs/mine --set batch=32 --set minutes=30   (fine-tune for half an hour)

mf-train flow --config base --size 512 --out runs/base --bf16 --dry-run   (does it fit? trains nothing)

accelerate launch --num_processes 2 -m microforge.training.cli flow --config tiny --out runs/tiny
"""


class StageName(StrEnum):
    """What to train."""

    vae = "vae"
    flow = "flow"
    kd = "kd"
    edit = "edit"
    reward = "reward"
    rewrite = "rewrite"
    all = "all"


Stage = Annotated[
    StageName, typer.Argument(help="vae first, then flow in the same --out; all runs a whole curriculum.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Run folder, with one folder per stage. Required unless --dry-run is given.",
        metavar="FOLDER",
        rich_help_panel=TRAINED,
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        help="nano, tiny, small or base. Default: that of --init, else tiny.",
        metavar="NAME",
        rich_help_panel=TRAINED,
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        help="Starting weights: a checkpoint folder, or pretrained.",
        metavar="CHECKPOINT",
        rich_help_panel=TRAINED,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="kd: teacher. edit: checkpoint whose text-to-image behaviour is preserved. reward, rewrite: checkpoint that "
        "generates the samples, best a few-step student of --init (student: the shipped one).",
        metavar="CHECKPOINT",
        rich_help_panel=TRAINED,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="128 or 128x256 (height x width). Default: the configuration's.",
        metavar="PIXELS",
        rich_help_panel=TRAINED,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Optimizer steps. Default: the stage's; --set minutes=N trains for N minutes instead.",
        metavar="N",
        rich_help_panel=TRAINED,
    ),
]


@app.command(epilog=EXAMPLES)
def train(
    stage: Stage,
    out: Out = None,
    config: Config = None,
    data: Data = None,
    init: Init = None,
    teacher: Teacher = None,
    size: Size = None,
    steps: Steps = None,
    settings: SettingsFile = None,
    assignments: Assignments = None,
    list_settings: ListSettings = False,
    bf16: Bf16 = False,
    dry_run: DryRun = False,
    resume: Resume = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train one stage into FOLDER/STAGE (log.jsonl, samples, loss.png); stop it at any time and --resume it."""
    from microforge.errors import SpecError
    from microforge.training.engine.distributed import is_main_process
    from microforge.training.runs.request import stage_notes, train_request

    if list_settings:
        print_settings(stage_notes(stage.value, config), json)
        return
    if out is None and not dry_run:
        raise SpecError("--out is missing: name the run's folder")
    flags = {
        "config": config,
        "data": data,
        "init": init,
        "teacher": teacher,
        "size": size,
        "steps": steps,
        "bf16": bf16,
        "resume": resume,
        "force": force,
    }
    request = train_request(stage.value, out or Path("runs"), flags, settings, assignments or ())
    values = _estimate(request) if dry_run else _run(request)
    if not is_main_process():
        return
    if json:
        print_json(values)
    elif not dry_run:
        print(values["checkpoint"])


def _run(request: TrainRequest) -> dict[str, object]:
    """Train; the result as JSON values."""
    from microforge.training.runs.curriculum_run import run_all
    from microforge.training.runs.request import ALL
    from microforge.training.runs.stage_run import run_stage

    return run_all(request).values() if request.stage == ALL else run_stage(request).values()


def _estimate(request: TrainRequest) -> dict[str, object]:
    """Print what a run would need; the same as JSON values."""
    from rich.console import Console

    from microforge.training.runs.curriculum_run import estimate_all
    from microforge.training.runs.request import ALL
    from microforge.training.runs.stage_run import estimate_stage

    console = Console(stderr=True)
    if request.stage != ALL:
        estimate = estimate_stage(request)
        console.print(estimate.table())
        return estimate.values()
    estimates = estimate_all(request)
    for phase in estimates:
        console.print(phase.table())
    return {"phases": [phase.values() for phase in estimates]}


def main() -> None:
    """Entry point of ``mf-train``."""
    run(app)


if __name__ == "__main__":
    main()
