"""Running a plan: processes, data report, preparation and the training loop, the same for every kind of run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from rich.console import Console

from microforge.data.image_source import ImageSource
from microforge.io.threads import usable_threads
from microforge.training.engine.distributed import Processes, end_processes, open_processes
from microforge.training.engine.loop import TrainingRun, TrainingStage, train
from microforge.training.engine.state import RunIdentity
from microforge.training.runs.data_report import report_data, report_skipped
from microforge.training.runs.plan import RunPlan
from microforge.training.runs.run_folder import clear_run


@contextlib.contextmanager
def launched(device: str, threads: int | None) -> Iterator[Processes]:
    """The processes of a run, joined on entry and left on exit; ``threads`` limits the CPU threads of each.

    Raises:
        SpecError: when several processes cannot share ``device``.
        MissingExtraError: when there are several processes and accelerate is not installed.
    """
    if threads is not None:
        torch.set_num_threads(usable_threads(threads) or 1)
    processes = open_processes(device)
    try:
        yield processes
    finally:
        end_processes(processes)


def run_plan(
    plan: RunPlan,
    stage: TrainingStage,
    identity: RunIdentity,
    source: ImageSource,
    force: bool,
    console: Console,
    processes: Processes,
) -> float | None:
    """Train a stage to its last step.

    Args:
        plan: The run, spread over all processes.
        stage: What is trained.
        identity: What the saved state records.
        source: The images, for the data report.
        force: Discard an earlier run in the folder, but not its caches.
        console: Shows what happens.
        processes: The processes of the run.

    Returns:
        The last smoothed score, or None when no step was left to train.

    Raises:
        DivergenceError: when the loss is not finite or leaves its range; the state on disk stays valid.
    """
    processes.wait()  # all have checked the folder and read its caches
    if force and processes.is_main:
        clear_run(plan.folder)
    processes.wait()
    if processes.is_main:
        report_data(source, plan.folder, console)
    stage.prepare(plan.folder, console, processes)
    height, width = plan.size
    run = TrainingRun(
        plan.folder,
        plan.checkpoint,
        identity,
        plan.settings.steps,
        plan.settings.optimizer,
        plan.loop,
        f"{height}x{width}",
    )
    loss = train(run, stage, console, processes)
    if processes.is_main:
        for item in stage.data_sources:  # files that turned out to be broken during training
            report_skipped(item, plan.folder, console)
    return loss
