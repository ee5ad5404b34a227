"""``mf-export distill``: checks all options, generates missing trajectories, trains and writes the student.

OUT        the student; written when it is finished
OUT.run/   state, log, samples, trajectories/: the run can be killed at any moment and repeated with --resume
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console

from microforge.checkpoint import CONFIG, Checkpoint
from microforge.data.edit_examples import SOURCE_TASKS, TripleSource
from microforge.data.image_source import ImageSource
from microforge.data.open import open_triples
from microforge.data.world.edit_triples import SceneTriples
from microforge.data.world.image_source import SCENES
from microforge.errors import SpecError
from microforge.io.atomic import atomic_folder, check_output
from microforge.training.distillation.plan import DistillPlan, plan_distill
from microforge.training.distillation.rejection_sampling import JUDGED_TASKS, filter_samples
from microforge.training.distillation.request import DistillRequest
from microforge.training.distillation.stage import (
    SHEET_PROMPTS,
    DistillStage,
    SheetInputs,
    pipeline_of,
    student_spec,
    write_student,
)
from microforge.training.distillation.student_init import initial_student
from microforge.training.distillation.task_teachers import intervals_per_task
from microforge.training.distillation.task_teachers import student_steps as steps_of
from microforge.training.distillation.teacher import FrozenTeacher, teacher_id
from microforge.training.distillation.trajectories import TrajectoryInputs, build_cache
from microforge.training.distillation.trajectory_cache import (
    CacheSize,
    TrajectoryDataset,
    check_room,
    megabytes,
)
from microforge.training.engine.distributed import Processes, is_main_process
from microforge.training.runs.data_report import open_data
from microforge.training.runs.execution import launched, run_plan
from microforge.training.runs.memory_estimate import MemoryEstimate, estimate
from microforge.training.runs.plan import spread_over
from microforge.training.runs.results import RunResult
from microforge.training.runs.run_folder import check_run_folder
from microforge.training.runs.starting_weights import SHIPPED, open_checkpoint
from microforge.training.stages.flow_network import FlowNetwork


@dataclass(frozen=True)
class DistillResult(RunResult):
    """A finished student; ``cache`` is None when nothing was sampled."""

    student_steps: int
    cache: CacheSize | None

    def values(self) -> dict[str, object]:
        """The result as JSON values."""
        return {**super().values(), "student_steps": self.student_steps, **_cache_values(self.cache)}


@dataclass(frozen=True)
class DistillEstimate:
    """What a run would need; both are None for a task-vector update without training."""

    student_steps: int
    cache: CacheSize | None
    memory: MemoryEstimate | None

    def values(self) -> dict[str, object]:
        """The estimate as JSON values."""
        memory = {} if self.memory is None else self.memory.values()
        return {"student_steps": self.student_steps, **_cache_values(self.cache), **memory}


def _cache_values(cache: CacheSize | None) -> dict[str, object]:
    return {} if cache is None else {"cache_bytes": cache.total, "cache_missing_bytes": cache.missing}


def run_distill(request: DistillRequest, console: Console | None = None) -> DistillResult:
    """Distil a student.

    Raises:
        MicroForgeError: SpecError, DataError, CheckpointError, OutputError or MissingExtraError for options that cannot
            work; nothing is written then. DivergenceError when training diverges.
    """
    console = Console(stderr=True, quiet=not is_main_process()) if console is None else console
    checkpoint = open_checkpoint(request.checkpoint or SHIPPED)
    plan = plan_distill(request, checkpoint)
    init = _initial_student(request, checkpoint)
    options = request.loop
    if plan.settings.steps == 0:
        return write_updated_student(plan, checkpoint, _updated(request, plan, init), options.force)
    size = _check_cache(plan, console)
    check_output(plan.out, options.force or options.resume)
    begun = plan.folder.is_dir()
    check_run_folder(plan.folder, plan.identity(checkpoint), options.resume, options.force, begun)
    with launched(plan.loop.device, options.threads) as processes:
        plan = spread_over(plan, processes.count, processes.device)
        loss = _train(plan, checkpoint, init, request, console, processes)
    return DistillResult(plan.out, plan.settings.steps, loss, plan.settings.student_steps, size)


def estimate_distill(request: DistillRequest, console: Console | None = None) -> DistillEstimate:
    """What ``run_distill`` would need on disk and in memory; writes nothing.

    Raises:
        SpecError, CheckpointError, OutputError, MissingExtraError: for options that cannot work.
    """
    console = Console(stderr=True, quiet=not is_main_process()) if console is None else console
    checkpoint = open_checkpoint(request.checkpoint or SHIPPED)
    plan = plan_distill(request, checkpoint, estimate=True)
    init = _initial_student(request, checkpoint)
    if plan.settings.steps == 0:
        _updated(request, plan, init)
        return DistillEstimate(plan.settings.student_steps, None, None)
    size = _check_cache(plan, console)
    memory = estimate(plan.memory_plan(), plan.target_spec)
    return DistillEstimate(plan.settings.student_steps, size, memory)


def _initial_student(request: DistillRequest, checkpoint: Checkpoint) -> Checkpoint | None:
    options = request.options
    return initial_student(options.init, options.init_teacher, checkpoint, options.delta_scale)


def _check_cache(plan: DistillPlan, console: Console) -> CacheSize:
    """Print the size of the trajectory cache before anything is written.

    Raises:
        OutputError: when the disk is too full for it.
    """
    size, trajectories = plan.cache_size(), plan.trajectories()
    intervals = intervals_per_task(trajectories.rows, plan.task_teachers, trajectories.cached_intervals)
    points = " or ".join(str(count + 1) for count in sorted(set(intervals.values())))
    counts = ", ".join(f"{count:,} {task}" for task, count in trajectories.rows.items())
    console.print(
        f"trajectories: {counts}; {points} points each: {megabytes(size.total)} in {plan.cache}, "
        f"{megabytes(size.missing)} to be generated, {megabytes(size.free)} free",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    check_room(size, plan.cache)
    return size


def _train(
    plan: DistillPlan,
    checkpoint: Checkpoint,
    init: Checkpoint | None,
    request: DistillRequest,
    console: Console,
    processes: Processes,
) -> float | None:
    """Generate the missing trajectories, train, and write the student to ``plan.out``."""
    source = open_data(request.data, plan.folder, console, processes)
    force, edits = request.loop.force, request.data.edits
    # a teacher that only generates has no use for edits, and its data need not have any
    triples = SceneTriples() if len(plan.tasks) == 1 else open_triples(source, edits)
    teacher = FrozenTeacher(checkpoint, plan.loop.device)
    if plan.loop.compile:
        teacher.network.compile_denoiser()
    inputs = _trajectory_inputs(plan, teacher, source, triples)

    def provide(console: Console, processes: Processes) -> Mapping[str, TrajectoryDataset]:
        return _trajectories(plan, inputs, force, console, processes)

    sheet = SheetInputs(source.prompts(SHEET_PROMPTS), triples)
    settings = plan.settings
    stage = DistillStage(teacher, plan.tasks, settings, plan.loop, plan.size, sheet, provide, init)
    stage.data_sources = (triples, source)
    loss = run_plan(plan, stage, plan.identity(checkpoint), source, force, console, processes)
    if processes.is_main:
        replaced = force or request.loop.resume
        with atomic_folder(plan.out, force=replaced, marker=CONFIG) as target:
            shutil.copytree(plan.checkpoint, target, dirs_exist_ok=True)
    processes.wait()
    return loss


def _trajectory_inputs(
    plan: DistillPlan, teacher: FrozenTeacher, source: ImageSource, triples: TripleSource
) -> TrajectoryInputs:
    distinct = {teacher_id(checkpoint): checkpoint for checkpoint in plan.task_teachers.values()}
    opened = {key: FrozenTeacher(checkpoint, plan.loop.device) for key, checkpoint in distinct.items()}
    task_teachers = {task: opened[teacher_id(checkpoint)] for task, checkpoint in plan.task_teachers.items()}
    data = f"{source.fingerprint} {plan.data.edits or SCENES}"
    return TrajectoryInputs(teacher, source, triples, plan.trajectories(), data, task_teachers)


def _trajectories(
    plan: DistillPlan, inputs: TrajectoryInputs, rebuild: bool, console: Console, processes: Processes
) -> dict[str, TrajectoryDataset]:
    """The trajectories of all tasks, with rejected ones replaced if the plan says so."""
    datasets = build_cache(inputs, plan.cache, console, processes, rebuild)
    if plan.filter_samples:
        # results of the data need no verdict, and the user's own edits have no oracle
        judged = [
            task
            for task in JUDGED_TASKS
            if task not in plan.true_targets and not (plan.data.edits and task in SOURCE_TASKS)
        ]
        quiet = console if processes.is_main else Console(quiet=True)
        chosen = {task: datasets[task] for task in judged if task in datasets}
        filter_samples(inputs.teacher, chosen, plan.cache, quiet, processes)
    return datasets


def _updated(request: DistillRequest, plan: DistillPlan, init: Checkpoint | None) -> Checkpoint:
    """The student of a task-vector update, for a run without steps.

    Raises:
        SpecError: without such a student, or for one of another number of sampling steps.
    """
    if init is None or request.options.init_teacher is None:
        raise SpecError(
            "--steps 0 only writes the student of a task-vector update: give --init and init_teacher, or more steps"
        )
    if (steps := steps_of(init)) != plan.settings.student_steps:
        raise SpecError(
            f"--init has {steps} sampling steps, --student-steps is {plan.settings.student_steps}"
        )
    return init


def write_updated_student(
    plan: DistillPlan, teacher: Checkpoint, student: Checkpoint, force: bool
) -> DistillResult:
    """Write the student of a task-vector update as it is, without sampling or training.

    Raises:
        OutputError: when it cannot be written.
    """
    check_output(plan.out, force)
    frozen, network = FrozenTeacher(teacher, "cpu"), FlowNetwork(teacher.spec)
    network.load(student)
    spec = student_spec(teacher.spec, plan.settings.student_steps, plan.size, plan.tasks)
    with atomic_folder(plan.out, force=force, marker=CONFIG) as target:
        write_student(target, pipeline_of(network, frozen, spec), frozen, plan.settings.int8_grid)
    return DistillResult(plan.out, 0, None, plan.settings.student_steps, None)
