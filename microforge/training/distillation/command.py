"""``mf-export distill``: check everything, draw what is missing of the teacher's drawings, train, write the student.

CHECKPOINT2        the student; appears when it is finished
CHECKPOINT2.run/   state, log, samples, trajectories/: kill the run at any moment and repeat it with --resume
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console

from microforge.checkpoint import CONFIG, Checkpoint
from microforge.data.edit_examples import SOURCE_TASKS, TripleSource
from microforge.data.files.edit_triples import FolderTriples
from microforge.data.image_source import ImageSource
from microforge.data.open import open_source
from microforge.data.world.edit_triples import SceneTriples
from microforge.data.world.image_source import SCENES
from microforge.errors import CheckpointError, OutputExistsError, SpecError
from microforge.io.atomic import atomic_folder, check_output
from microforge.spec import ModelSpec, check_size, parse_size
from microforge.training.distillation.rejection_sampling import JUDGED, keep_faithful
from microforge.training.distillation.settings import DistillSettings, distill_settings
from microforge.training.distillation.stage import DistillStage, student_spec
from microforge.training.distillation.student_init import move_student, starting_student
from microforge.training.distillation.task_teachers import kept_intervals, open_drawers
from microforge.training.distillation.teacher import (
    DrawingPlan,
    Teacher,
    build_cache,
    known_tasks,
    rows_of,
    teacher_id,
)
from microforge.training.distillation.trajectory_cache import check_room, megabytes, predict_size
from microforge.training.engine.distributed import Processes, end_processes, open_processes, speaks
from microforge.training.engine.loop import Run, train
from microforge.training.engine.state import STATE, RunIdentity, check_identity
from microforge.training.runs.data_report import CACHE, report_data
from microforge.training.runs.memory_estimate import describe
from microforge.training.runs.plan import (
    CHECKPOINT,
    StagePlan,
    TrainRequest,
    loop_settings,
    spread_over,
)
from microforge.training.runs.starting_weights import SHIPPED, latents_id, open_checkpoint
from microforge.training.settings import EditSettings, FlowSettings, LoopSettings

#: In the run's folder.
TRAJECTORIES = "trajectories"


@dataclass(frozen=True)
class DistillRequest:
    """The options of one ``mf-export distill`` call, as typed; None is the preset's own choice."""

    checkpoint: Path | None
    out: Path | None
    init: Path | None = None
    init_teacher: Path | None = None
    move: float = 1.0
    steps: int = 4
    skip: int | None = None
    updates: int | None = None
    batch: int | None = None
    drawings: int | None = None
    learning_rate: float | None = None
    optimizer: str | None = None
    ema: float | None = None
    anchor: float | None = None
    own: float | None = None
    perturb: float | None = None
    int8_grid: bool = False
    generate: float | None = None
    faithful: bool = False
    true_targets: str | None = None
    drawers: tuple[str, ...] = ()
    size: str | None = None
    data: str = SCENES
    edits: str | None = None
    cache: Path | None = None
    resume: bool = False
    force: bool = False
    dry_run: bool = False
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False
    compile: bool = False
    accumulate: int | None = None
    threads: int | None = None
    save_every: int = 500
    sample_every: int = 2000
    tensorboard: bool = False


@dataclass(frozen=True)
class DistillPlan:
    """One run, checked as far as options and the teacher's configuration go."""

    out: Path
    folder: Path
    cache: Path
    settings: DistillSettings
    loop: LoopSettings
    size: tuple[int, int]
    tasks: tuple[str, ...]
    faithful: bool = False
    true_targets: tuple[str, ...] = ()
    #: Task -> who draws it in the teacher's place.
    drawers: Mapping[str, Checkpoint] = field(default_factory=dict)

    def drawing(self) -> DrawingPlan:
        settings = self.settings
        return DrawingPlan(
            rows_of(settings.drawings, self.tasks, settings.generate), self.size, settings.intervals, settings.kept,
            self.loop.seed, self.loop.bfloat16, self.true_targets,
        )  # fmt: skip


def run_distill(request: DistillRequest, console: Console | None = None) -> dict[str, object]:
    """Distil and return where the student is; with ``dry_run`` only what it would take.

    Raises:
        SpecError, DataError, CheckpointError, OutputError, MissingExtraError: for options that cannot work; nothing
            is written then.
    """
    console = Console(stderr=True, quiet=not speaks()) if console is None else console
    checkpoint = open_checkpoint(request.checkpoint or SHIPPED)
    plan = plan_distill(request, checkpoint)
    start = starting_student(request.init, request.init_teacher, checkpoint, request.move)
    if plan.settings.updates == 0:
        spec = student_spec(checkpoint.spec, plan.settings.steps, plan.size, plan.tasks)
        moved = start if request.init_teacher else None
        return move_student(
            plan.out, spec, checkpoint, moved, plan.settings.int8_grid, request.force, request.dry_run
        )
    here = _show_size(plan, checkpoint, console)
    if request.dry_run:
        return {**here, **describe(_as_stage(plan, checkpoint), _slow(plan, checkpoint), console)}
    _check_folders(plan, checkpoint, request)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    processes = open_processes(plan.loop.device)
    try:
        plan = _spread(plan, processes)
        loss = _run(plan, checkpoint, start, request, console, processes)
    finally:
        end_processes(processes)
    return {
        "checkpoint": str(plan.out.absolute()), "steps": plan.settings.steps, "updates": plan.settings.updates,
        "loss": loss, **here,
    }  # fmt: skip


def plan_distill(request: DistillRequest, teacher: Checkpoint) -> DistillPlan:
    """The plan of a request.

    Raises:
        SpecError, CheckpointError, MissingExtraError: for options, or a teacher, that cannot work.
    """
    if teacher.spec.sampler.guidance_distilled:
        raise CheckpointError("this checkpoint was distilled already; distill from its teacher")
    out = request.out
    if out is None and not request.dry_run:
        raise SpecError("say where to write the student: --out CHECKPOINT2")
    out = Path("student") if out is None else out
    settings = distill_settings(
        teacher.spec.name, steps=request.steps, skip=request.skip, updates=request.updates, batch=request.batch,
        drawings=request.drawings, learning_rate=request.learning_rate, kind=request.optimizer, ema=request.ema,
        anchor=request.anchor, own=request.own, generate=request.generate, perturb=request.perturb,
        int8_grid=request.int8_grid,
    )  # fmt: skip
    loop = loop_settings(_as_train(request, out))
    factor = teacher.spec.vae.downsample
    size = teacher.spec.native_size if request.size is None else parse_size(request.size, factor)
    check_size(*size, factor)
    tasks = known_tasks(teacher)
    _check_together(request, settings, loop, tasks)
    true_targets = _true_targets(request, tasks)
    folder = out.with_name(out.name + ".run")
    cache = folder / TRAJECTORIES if request.cache is None else request.cache
    drawers = open_drawers(request.drawers, teacher, settings, true_targets)
    return DistillPlan(
        out, folder, cache, settings, loop, size, tasks, request.faithful, true_targets, drawers
    )


def _check_together(
    request: DistillRequest, settings: DistillSettings, loop: LoopSettings, tasks: tuple[str, ...]
) -> None:
    """Raise SpecError for options that do not go together."""
    if request.data != SCENES and len(tasks) > 1 and request.edits is None:
        raise SpecError(
            "the teacher edits: --data of your own needs --edits FOLDER, with source, instruction and target"
        )
    if request.edits is not None and len(tasks) == 1:
        raise SpecError("--edits belongs to a teacher that edits; this one only generates")
    if settings.batch % loop.accumulate:
        raise SpecError(f"a batch of {settings.batch} does not divide into {loop.accumulate} micro-batches")
    if request.skip is not None and request.own is not None:
        raise SpecError("--own-rollout belongs to windows with an exact end, not to --skip")
    if request.faithful and request.data != SCENES:
        raise SpecError("--faithful needs captions that the oracle can judge: --data scenes")


def _true_targets(request: DistillRequest, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """The tasks that --true-targets names; SpecError for one without a source."""
    named = tuple((request.true_targets or "").replace(",", " ").split())
    allowed = [task for task in tasks if task in SOURCE_TASKS]
    for task in named:
        if task not in allowed:
            raise SpecError(
                f"--true-targets is {task}; allowed for this teacher: {', '.join(allowed) or 'none'}"
            )
    return named


def _as_train(request: DistillRequest, out: Path) -> TrainRequest:
    """The loop's options under the names that ``mf-train`` has for them."""
    return TrainRequest(
        "distill", out, seed=request.seed, device=request.device, bf16=request.bf16, compile=request.compile,
        accumulate=request.accumulate, save_every=request.save_every, sample_every=request.sample_every,
        tensorboard=request.tensorboard,
    )  # fmt: skip


def _spread(plan: DistillPlan, processes: Processes) -> DistillPlan:
    """--batch counts for each process, as in ``mf-train``."""
    settings = replace(plan.settings, batch=plan.settings.batch * processes.count)
    return replace(plan, settings=settings, loop=replace(plan.loop, device=processes.device))


def _show_size(plan: DistillPlan, teacher: Checkpoint, console: Console) -> dict[str, object]:
    """Say what the cache will take before anything is written.

    Raises:
        OutputError: when the disk is too full for it.
    """
    spec, drawing = teacher.spec, plan.drawing()
    height, width = (side // spec.vae.downsample for side in plan.size)
    latent = (spec.latent_channels, height, width)
    kept = kept_intervals(drawing.rows, plan.drawers, drawing.kept)
    size = predict_size(plan.cache, drawing.rows, latent, kept, spec.text_encoder.max_length)
    points = " or ".join(str(count + 1) for count in sorted(set(kept.values())))
    counts = ", ".join(f"{count:,} {task}" for task, count in drawing.rows.items())
    console.print(
        f"teacher's drawings: {counts}; {points} points each: {megabytes(size.total)} in {plan.cache}, "
        f"{megabytes(size.missing)} to be drawn, {megabytes(size.free)} free",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    check_room(size, plan.cache)
    return {"cache_bytes": size.total, "cache_missing_bytes": size.missing}


def identity(plan: DistillPlan, teacher: Checkpoint, data: str) -> RunIdentity:
    """What a state on disk must agree with to be resumed."""
    return RunIdentity(
        plan.settings.name, f"{teacher.spec.name} of teacher {teacher_id(teacher)}", plan.loop.seed,
        latents_id(teacher), plan.settings.optimizer.kind, SCENES if data == SCENES else "own images",
    )  # fmt: skip


def _check_folders(plan: DistillPlan, teacher: Checkpoint, request: DistillRequest) -> None:
    """Never overwrite a checkpoint, never mix two runs."""
    check_output(plan.out, request.force or request.resume)
    exists = (plan.folder / STATE).is_file()
    if request.resume and not exists and not plan.folder.is_dir():
        raise CheckpointError(f"nothing to resume: {plan.folder} does not exist; leave out --resume")
    if exists and request.resume:
        check_identity(plan.folder, identity(plan, teacher, request.data))
    elif exists and not request.force:
        raise OutputExistsError(f"{plan.folder} holds a run; --resume goes on with it, --force starts over")


def _run(
    plan: DistillPlan, checkpoint: Checkpoint, start: Checkpoint | None, request: DistillRequest, console: Console,
    processes: Processes,
) -> float | None:  # fmt: skip
    source, triples = _data(plan, request, console, processes)
    if request.force and processes.is_main:
        _clear(plan)
    processes.wait()
    teacher = Teacher(checkpoint, plan.loop.device)
    if plan.loop.compile:
        teacher.network.compile_denoiser()
    if processes.is_main:
        report_data(source, plan.folder, console)
    fingerprint = f"{source.fingerprint} {request.edits or SCENES}"
    distinct = {teacher_id(one): one for one in plan.drawers.values()}
    drawers = {name: Teacher(one, plan.loop.device) for name, one in distinct.items()}
    cache = build_cache(
        teacher, source, triples, plan.drawing(), plan.cache, fingerprint, console, processes, request.force,
        {task: drawers[teacher_id(one)] for task, one in plan.drawers.items()},
    )  # fmt: skip
    if plan.faithful:
        # results of the data need no judge, and edits of one's own have none
        judged = [
            task
            for task in JUDGED
            if task not in plan.true_targets and not (request.edits and task in SOURCE_TASKS)
        ]
        here = console if processes.is_main else Console(quiet=True)
        keep_faithful(
            teacher, {task: cache[task] for task in judged if task in cache}, plan.cache, here, processes
        )
    stage = DistillStage(
        teacher, cache, plan.settings, plan.loop, plan.size, source.prompts(12), triples, start
    )
    settings, (height, width) = plan.settings, plan.size
    run = Run(
        plan.folder, plan.folder / CHECKPOINT, identity(plan, checkpoint, request.data), settings.updates,
        settings.optimizer, plan.loop, f"{height}x{width}",
    )  # fmt: skip
    loss = train(run, stage, console, processes)
    if processes.is_main:
        with atomic_folder(plan.out, force=request.force or request.resume, marker=CONFIG) as target:
            shutil.copytree(run.checkpoint, target, dirs_exist_ok=True)
    processes.wait()
    return loss


def _data(
    plan: DistillPlan, request: DistillRequest, console: Console, processes: Processes
) -> tuple[ImageSource, TripleSource]:
    here = console if processes.is_main else Console(quiet=True)
    source = open_source(request.data, plan.folder / CACHE, here)
    return source, SceneTriples() if request.edits is None else FolderTriples(Path(request.edits))


def _clear(plan: DistillPlan) -> None:
    """Remove the run's own files; drawings that still fit are kept."""
    if not (plan.folder / STATE).is_file():
        return
    for name in (STATE, "log.jsonl", "loss.png", "skipped.txt"):
        (plan.folder / name).unlink(missing_ok=True)
    for name in (CHECKPOINT, "best", "samples", "tensorboard"):
        shutil.rmtree(plan.folder / name, ignore_errors=True)


def _as_stage(plan: DistillPlan, teacher: Checkpoint) -> StagePlan:
    """The run as a plan that the memory count understands: a sample is a drawing with all its windows."""
    kind: Callable[..., FlowSettings] = FlowSettings if len(plan.tasks) == 1 else EditSettings
    settings = plan.settings
    flow = kind(settings.optimizer, steps=settings.updates, batch=settings.batch, draws=settings.steps)
    return spread_over(
        StagePlan(settings.name, settings.name, plan.folder, teacher.spec, flow, plan.loop, plan.size, SCENES),
        1, plan.loop.device,
    )  # fmt: skip


def _slow(plan: DistillPlan, teacher: Checkpoint) -> ModelSpec | None:
    """Segment-CD keeps a second network."""
    return None if plan.settings.skip is None else teacher.spec
