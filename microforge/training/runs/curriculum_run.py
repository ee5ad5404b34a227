"""``mf-train all``: the phases of a curriculum, in order, each in a folder of its own (RUN/1-vae-128 and so on).

A phase is an ordinary run: killing and resuming it, its log and its samples are those of any other. It starts
from the weights of the last phase of its kind and stands on the last VAE.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from microforge.checkpoint import CONFIG
from microforge.data.image_source import ImageSource
from microforge.data.open import makes_edits
from microforge.errors import CheckpointError, OutputExistsError, SpecError
from microforge.spec import ModelSpec, preset
from microforge.training.engine.distributed import Processes, end_processes, open_processes, speaks
from microforge.training.engine.state import STATE, is_complete, steps_done
from microforge.training.runs.curriculum import CURRICULA, Curriculum, Phase, read_curriculum
from microforge.training.runs.data_report import open_data
from microforge.training.runs.memory_estimate import describe
from microforge.training.runs.plan import (
    StagePlan,
    TrainRequest,
    check_data,
    loop_settings,
    spread_over,
)
from microforge.training.runs.stage_run import DEFAULT_CONFIG, check_folder, clear_run, run_plan
from microforge.training.runs.starting_weights import (
    SHIPPED_FOLDERS,
    Ground,
    open_checkpoint,
    stand_on,
)
from microforge.training.settings import DENOISER_STAGES, LoopSettings

#: A checkpoint by its folder, which may not be there yet, or by name.
Source = Path | str | None


@dataclass(frozen=True)
class Step:
    """A phase and the checkpoints that it will stand on."""

    plan: StagePlan
    vae: Source
    init: Source
    teacher: Source

    @property
    def started(self) -> bool:
        return (self.plan.folder / STATE).is_file()

    @property
    def finished(self) -> bool:
        whole = (self.plan.checkpoint / CONFIG).is_file()
        if self.plan.loop.minutes is not None:
            return whole and is_complete(self.plan.folder)
        return whole and steps_done(self.plan.folder) >= self.plan.settings.steps


def run_all(request: TrainRequest) -> dict[str, object]:
    """Train the phases of a curriculum that are not finished, in order.

    Raises:
        SpecError, DataError, CheckpointError, OutputExistsError, MissingExtraError: for options that cannot
            work; nothing is written then.
    """
    _refuse_stage_options(request)
    path = request.settings or CURRICULA / f"{preset(request.config or DEFAULT_CONFIG).name}.toml"
    curriculum = read_curriculum(path)
    if request.config not in (None, curriculum.config):
        raise SpecError(
            f"--config is {request.config} and {path.name} is for {curriculum.config}; leave one out"
        )
    console = Console(stderr=True)
    if request.settings is None and (fitting := fitting_data(curriculum, request)) != curriculum:
        curriculum = fitting
        if speaks():
            console.print("images of your own without --edits: the phase edit is left out", highlight=False)
    steps = plan_steps(curriculum, request)
    if speaks():
        _show(steps, console)
    if request.dry_run:
        return {"phases": [describe(step.plan, _teacher_spec(step), console) for step in steps]}
    _check_sources(steps)
    _check_folders(steps, request)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    processes = open_processes(steps[0].plan.loop.device)
    try:
        source = open_data(request, console, processes)
        if request.force and processes.is_main:
            for step in steps:
                clear_run(step.plan.folder)
        processes.wait()
        results = [_run(step, source, console, processes) for step in steps]
    finally:
        end_processes(processes)
    return {"checkpoint": results[-1]["checkpoint"], "phases": results}


def fitting_data(curriculum: Curriculum, request: TrainRequest) -> Curriculum:
    """A curriculum of the package for ``request``'s data: images of one's own are not edited without ``--edits``."""
    if makes_edits(request.data) or request.edits is not None:
        return curriculum
    return replace(curriculum, phases=tuple(one for one in curriculum.phases if one.head.stage != "edit"))


def plan_steps(curriculum: Curriculum, request: TrainRequest) -> list[Step]:
    """Every phase with what it stands on: the last VAE, the last weights of its kind, or what it names itself.

    Raises:
        SpecError, MissingExtraError: for options that cannot work.
    """
    loop, spec = loop_settings(request), preset(curriculum.config)
    last_vae: Source = None
    last_flow: Source = None
    steps = []
    for phase in curriculum.phases:
        head = phase.head
        check_data(head.stage, request)
        plan = StagePlan(
            head.stage, phase.name, request.out / phase.name, spec, phase.settings,
            _phase_loop(loop, phase, request), phase.size, request.data, head.decoder_only, request.edits, request.tokenizer,
        )  # fmt: skip
        spread_over(plan, 1, plan.loop.device)
        vae: Source
        if head.stage == "vae":
            start = head.init or last_vae
            vae, init = (start, None) if head.decoder_only else (None, start)
            last_vae = plan.checkpoint
        else:
            init = head.init or last_flow
            vae = last_vae or init or head.teacher
            last_flow = plan.checkpoint
        steps.append(Step(plan, vae or None, init or None, head.teacher or None))
    return steps


def _phase_loop(loop: LoopSettings, phase: Phase, request: TrainRequest) -> LoopSettings:
    head = phase.head
    return replace(
        loop,
        accumulate=head.accumulate if request.accumulate is None else request.accumulate,
        checkpoint_blocks=head.checkpoint_blocks or request.checkpoint_blocks,
        compile=request.compile and head.compile and head.stage in DENOISER_STAGES,
        minutes=head.minutes,
    )


def _refuse_stage_options(request: TrainRequest) -> None:
    """Options of a single stage belong into the file, where they say of which phase."""
    given = {
        "--size": request.size, "--steps": request.steps, "--batch": request.batch, "--init": request.init,
        "--teacher": request.teacher, "--crop": request.crop, "--optimizer": request.optimizer,
        "--decoder-only": request.decoder_only or None, "--minutes": request.minutes,
    }  # fmt: skip
    for option, value in given.items():
        if value is not None:
            raise SpecError(
                f"{option} belongs to a single stage; for all, write it into the phases of --settings"
            )


def _check_sources(steps: list[Step]) -> None:
    """Checkpoints that the file names must be there now, not after the phases before them."""
    for step in steps:
        for name in (step.vae, step.init, step.teacher):
            if not isinstance(name, str) or name in SHIPPED_FOLDERS:
                continue
            if not (Path(name) / CONFIG).is_file():
                raise CheckpointError(
                    f"phase {step.plan.name} needs the checkpoint {name}, which is not there"
                )


def _check_folders(steps: list[Step], request: TrainRequest) -> None:
    """Never mix two runs: the same rules as for one stage, for all phases together."""
    started = [step for step in steps if step.started]
    if request.force:
        return
    if request.resume and not started:
        raise CheckpointError(f"nothing to resume: {request.out} holds no phase of this curriculum")
    if started and not request.resume:
        raise OutputExistsError(f"{request.out} holds a run; --resume goes on with it, --force starts over")
    first = next((index for index, step in enumerate(steps) if not step.finished), len(steps))
    for later in steps[first + 1 :]:
        if later.started:
            raise CheckpointError(
                f"{later.plan.folder} was trained, and {steps[first].plan.name}, which it stands on, is not finished: "
                f"remove {later.plan.folder}, or start over with --force"
            )


def _run(step: Step, source: ImageSource, console: Console, processes: Processes) -> dict[str, object]:
    """Train one phase to its end; a finished one only says where it is."""
    plan = step.plan
    place = {"phase": plan.name, "checkpoint": str(plan.checkpoint.absolute()), "steps": plan.settings.steps}
    if step.finished:
        return {**place, "loss": None}
    if processes.is_main:
        console.print(f"phase {plan.name}")
    ground = Ground(
        *(None if name is None else open_checkpoint(name) for name in (step.vae, step.init, step.teacher))
    )
    plan = stand_on(plan, ground)
    check_folder(plan, ground, resume=step.started, force=False)
    return {**place, "loss": run_plan(plan, ground, source, False, console, processes)["loss"]}


def _teacher_spec(step: Step) -> ModelSpec | None:
    return None if step.teacher is None else open_checkpoint(step.teacher).spec


def _show(steps: list[Step], console: Console) -> None:
    """The plan as a table, and how far each phase is."""
    table = Table("phase", "size", "steps", "batch", "rate", "on disk")
    for step in steps:
        plan, done = step.plan, steps_done(step.plan.folder)
        state = "finished" if step.finished else f"step {done}" if done else "-"
        size = "x".join(map(str, plan.size))
        rate = f"{plan.settings.optimizer.learning_rate:g}"
        minutes = plan.loop.minutes
        length = f"{plan.settings.steps:,}" if minutes is None else f"{minutes:g} min"
        table.add_row(plan.name, size, length, str(plan.settings.batch), rate, state)
    console.print(table)
