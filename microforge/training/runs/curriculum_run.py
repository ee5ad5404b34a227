"""``mf-train all``: the phases of a curriculum in order, each in a folder of its own (RUN/1-vae-128 and so on).

A phase is an ordinary run: it is killed, resumed, logged and sampled like any other. It starts from the weights of the last
phase of its kind and uses the last VAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from microforge.checkpoint import CONFIG
from microforge.data.image_source import ImageSource
from microforge.errors import CheckpointError, OutputExistsError, SpecError
from microforge.spec import preset
from microforge.training.engine.device import resolve_loop
from microforge.training.engine.distributed import Processes, is_main_process
from microforge.training.engine.state import STATE, is_complete, steps_done
from microforge.training.loop_options import LoopOptions, LoopSettings
from microforge.training.runs.curriculum import CURRICULA, Curriculum, Phase, read_curriculum
from microforge.training.runs.data_report import open_data
from microforge.training.runs.execution import launched
from microforge.training.runs.memory_estimate import MemoryEstimate, estimate
from microforge.training.runs.plan import StagePlan, check_data, spread_over
from microforge.training.runs.request import DEFAULT_CONFIG, TrainRequest, check_curriculum_options
from microforge.training.runs.results import CurriculumResult, PhaseResult
from microforge.training.runs.run_folder import check_run_folder, clear_run
from microforge.training.runs.stage_run import check_tokenizer, identity, train_stage
from microforge.training.runs.starting_weights import (
    SHIPPED_FOLDERS,
    StartingWeights,
    open_checkpoint,
    resolve_plan,
)
from microforge.training.settings import DENOISER_STAGES

#: A checkpoint: a folder that may not exist yet, or a name as the user wrote it.
CheckpointName = Path | str | None


@dataclass(frozen=True)
class PhaseRun:
    """A phase and the checkpoints that it will start from."""

    plan: StagePlan
    vae: CheckpointName
    init: CheckpointName
    teacher: CheckpointName

    @property
    def started(self) -> bool:
        """Whether the phase has saved a state."""
        return (self.plan.folder / STATE).is_file()

    @property
    def finished(self) -> bool:
        """Whether the phase has been trained to its end."""
        whole = (self.plan.checkpoint / CONFIG).is_file()
        if self.plan.loop.minutes is not None:
            return whole and is_complete(self.plan.folder)
        return whole and steps_done(self.plan.folder) >= self.plan.settings.steps


def run_all(request: TrainRequest) -> CurriculumResult:
    """Train the unfinished phases of a curriculum in order.

    Raises:
        MicroForgeError: SpecError, DataError, CheckpointError, OutputExistsError or MissingExtraError for options that
            cannot work; nothing is written then. DivergenceError when training diverges.
    """
    console = Console(stderr=True)
    phases = _phases(request, console)
    _check_checkpoints(phases)
    _check_folders(phases, request)
    with launched(phases[0].plan.loop.device, request.loop.threads) as processes:
        source = open_data(request.data, request.out, console, processes)
        if request.loop.force and processes.is_main:
            for phase in phases:
                clear_run(phase.plan.folder)
        processes.wait()
        return CurriculumResult(tuple(_run(phase, source, console, processes) for phase in phases))


def estimate_all(request: TrainRequest) -> list[MemoryEstimate]:
    """What every phase of a curriculum would need, without training.

    Raises:
        SpecError, CheckpointError, MissingExtraError: for options that cannot work.
    """
    phases = _phases(request, Console(stderr=True))
    teachers = (None if phase.teacher is None else open_checkpoint(phase.teacher).spec for phase in phases)
    return [estimate(phase.plan, teacher) for phase, teacher in zip(phases, teachers, strict=True)]


def _phases(request: TrainRequest, console: Console) -> list[PhaseRun]:
    """The phases of a request, shown as a table."""
    check_curriculum_options(request)
    config = request.options.config
    path = request.curriculum or CURRICULA / f"{preset(config or DEFAULT_CONFIG).name}.toml"
    curriculum = read_curriculum(path)
    if config not in (None, curriculum.config):
        raise SpecError(f"--config is {config} and {path.name} is for {curriculum.config}; leave one out")
    if request.curriculum is None and (fitting := fitting_phases(curriculum, request)) != curriculum:
        curriculum = fitting
        if is_main_process():
            console.print("images of your own without edits: the phase edit is left out", highlight=False)
    phases = plan_phases(curriculum, request)
    if is_main_process():
        console.print(_table(phases))
    return phases


def fitting_phases(curriculum: Curriculum, request: TrainRequest) -> Curriculum:
    """A shipped curriculum for the request's data: without the edit phase for the user's own images without edits."""
    if request.data.has_edits:
        return curriculum
    return replace(
        curriculum, phases=tuple(phase for phase in curriculum.phases if phase.head.stage != "edit")
    )


def plan_phases(curriculum: Curriculum, request: TrainRequest) -> list[PhaseRun]:
    """Every phase with its checkpoints: the last VAE, the last weights of its kind, or those that it names.

    Raises:
        SpecError, MissingExtraError: for options that cannot work.
    """
    loop, spec = resolve_loop(request.loop), preset(curriculum.config)
    tokenizer = request.options.tokenizer
    last_vae: CheckpointName = None
    last_flow: CheckpointName = None
    phases = []
    for phase in curriculum.phases:
        head = phase.head
        check_data(head.stage, request.data)
        plan = StagePlan(
            stage=head.stage,
            name=phase.name,
            folder=request.out / phase.name,
            spec=spec,
            settings=phase.settings,
            loop=_phase_loop(loop, phase, request.loop),
            size=phase.size,
            data=request.data,
            decoder_only=head.decoder_only,
            tokenizer=None if tokenizer is None else Path(tokenizer),
        )
        spread_over(plan, 1, plan.loop.device)
        vae: CheckpointName
        if head.stage == "vae":
            start = head.init or last_vae
            vae, init = (start, None) if head.decoder_only else (None, start)
            last_vae = plan.checkpoint
        else:
            init = head.init or last_flow
            vae = last_vae or init or head.teacher
            last_flow = plan.checkpoint
        phases.append(PhaseRun(plan, vae or None, init or None, head.teacher or None))
    return phases


def _phase_loop(loop: LoopSettings, phase: Phase, options: LoopOptions) -> LoopSettings:
    head = phase.head
    return replace(
        loop,
        accumulate=head.accumulate if options.accumulate is None else options.accumulate,
        checkpoint_blocks=head.checkpoint_blocks or options.checkpoint_blocks,
        compile=options.compile and head.compile and head.stage in DENOISER_STAGES,
        minutes=head.minutes,
    )


def _check_checkpoints(phases: Sequence[PhaseRun]) -> None:
    """Checkpoints that the file names must exist now, not only after the phases before them.

    Raises:
        CheckpointError: names the phase and the checkpoint.
    """
    for phase in phases:
        for name in (phase.vae, phase.init, phase.teacher):
            if not isinstance(name, str) or name in SHIPPED_FOLDERS:
                continue
            if not (Path(name) / CONFIG).is_file():
                raise CheckpointError(
                    f"phase {phase.plan.name} needs the checkpoint {name}, which is missing"
                )


def _check_folders(phases: Sequence[PhaseRun], request: TrainRequest) -> None:
    """The rules of ``check_run_folder`` for all phases together."""
    started = [phase for phase in phases if phase.started]
    if request.loop.force:
        return
    if request.loop.resume and not started:
        raise CheckpointError(f"nothing to resume: {request.out} holds no phase of this curriculum")
    if started and not request.loop.resume:
        raise OutputExistsError(
            f"{request.out} holds a run; --resume continues it, --force discards it and starts over"
        )
    first = next((index for index, phase in enumerate(phases) if not phase.finished), len(phases))
    for later in phases[first + 1 :]:
        if later.started:
            raise CheckpointError(
                f"{later.plan.folder} was trained, but {phases[first].plan.name}, which it starts from, is not "
                f"finished: remove {later.plan.folder}, or start over with --force"
            )


def _run(phase: PhaseRun, source: ImageSource, console: Console, processes: Processes) -> PhaseResult:
    """Train one phase to its end; a finished one is skipped."""
    plan = phase.plan
    steps, loss = plan.settings.steps, None
    if not phase.finished:
        if processes.is_main:
            console.print(f"phase {plan.name}")
        names = (phase.vae, phase.init, phase.teacher)
        weights = StartingWeights(*(None if name is None else open_checkpoint(name) for name in names))
        plan = resolve_plan(plan, weights)
        check_run_folder(plan.folder, identity(plan, weights), resume=phase.started, force=False)
        if phase.started:
            check_tokenizer(plan, weights)
        loss = train_stage(plan, weights, source, False, console, processes).loss
    return PhaseResult(plan.checkpoint, steps, loss, plan.name)


def _table(phases: Sequence[PhaseRun]) -> Table:
    """The phases, and the progress of each."""
    table = Table("phase", "size", "steps", "batch", "learning rate", "on disk")
    for phase in phases:
        plan, done = phase.plan, steps_done(phase.plan.folder)
        state = "finished" if phase.finished else f"step {done}" if done else "-"
        size = "x".join(map(str, plan.size))
        rate = f"{plan.settings.optimizer.learning_rate:g}"
        minutes = plan.loop.minutes
        length = f"{plan.settings.steps:,}" if minutes is None else f"{minutes:g} min"
        table.add_row(plan.name, size, length, str(plan.settings.batch), rate, state)
    return table
