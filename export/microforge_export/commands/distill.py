"""``mf-export distill``: trains a few-step student of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import print_json
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

Teacher = Annotated[
    Path | None,
    typer.Argument(
        help="Checkpoint folder of the teacher. Default: the shipped teacher.", metavar="CHECKPOINT"
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Checkpoint folder of the student; its run is in FOLDER.run. Required unless --dry-run is given.",
        metavar="FOLDER",
        rich_help_panel=TRAINED,
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        help="Start from an earlier student on the same VAE. Default: the teacher's weights.",
        metavar="CHECKPOINT",
        rich_help_panel=TRAINED,
    ),
]
StudentSteps = Annotated[
    int | None,
    typer.Option(
        help="Sampling steps of the student: 1, 2, 4 or 8. Default: 4.",
        metavar="N",
        rich_help_panel=TRAINED,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Optimizer steps. Default: the configuration's. 0 with --set init_teacher=CHECKPOINT writes the student of "
        "the task-vector update without training.",
        metavar="N",
        rich_help_panel=TRAINED,
    ),
]
TaskTeachers = Annotated[
    list[str] | None,
    typer.Option(
        "--task-teacher",
        help="Generate the training samples of TASK with this checkpoint instead of the teacher; repeat per task. An "
        "earlier student preserves its abilities.",
        metavar="TASK=CHECKPOINT",
        rich_help_panel=TRAINED,
    ),
]
FilterSamples = Annotated[
    bool,
    typer.Option(
        "--filter-samples",
        help="Learn only from samples that the rule-based detector accepts; for --data scenes.",
        rich_help_panel=TRAINED,
    ),
]


def distill(
    checkpoint: Teacher = None,
    out: Out = None,
    init: Init = None,
    student_steps: StudentSteps = None,
    steps: Steps = None,
    data: Data = None,
    task_teachers: TaskTeachers = None,
    filter_samples: FilterSamples = False,
    settings: SettingsFile = None,
    assignments: Assignments = None,
    list_settings: ListSettings = False,
    bf16: Bf16 = False,
    dry_run: DryRun = False,
    resume: Resume = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train a guidance-distilled student that samples in a few steps what the teacher samples in many guided ones."""
    from microforge.training.distillation.command import estimate_distill, run_distill
    from microforge.training.distillation.request import distill_notes, distill_request
    from microforge.training.engine.distributed import is_main_process

    if list_settings:
        print_settings(distill_notes("tiny"), json)
        return
    flags = {
        "init": init,
        "student_steps": student_steps,
        "steps": steps,
        "data": data,
        "task_teachers": task_teachers,
        "filter_samples": filter_samples,
        "bf16": bf16,
        "resume": resume,
        "force": force,
    }
    request = distill_request(checkpoint, out, flags, settings, assignments or ())
    if dry_run:
        from rich.console import Console

        estimate = estimate_distill(request)
        if estimate.memory is not None:
            Console(stderr=True).print(estimate.memory.table())
        values = estimate.values()
    else:
        values = run_distill(request).values()
    if not is_main_process():
        return
    if json:
        print_json(values)
    elif not dry_run:
        print(values["checkpoint"])
