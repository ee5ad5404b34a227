"""What one run of distillation will do, checked as far as options and the configurations of checkpoints go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from microforge.checkpoint import Checkpoint
from microforge.data.edit_examples import SOURCE_TASKS
from microforge.errors import CheckpointError, SpecError
from microforge.io.settings_file import with_values
from microforge.spec import ModelSpec, check_size, parse_size
from microforge.training.distillation.request import DistillRequest
from microforge.training.distillation.settings import DistillSettings, distill_preset
from microforge.training.distillation.task_teachers import intervals_per_task, open_task_teachers
from microforge.training.distillation.teacher import (
    TrajectoryPlan,
    known_tasks,
    rows_per_task,
    teacher_id,
)
from microforge.training.distillation.trajectory_cache import CacheSize, predict_size
from microforge.training.engine.device import resolve_loop
from microforge.training.engine.state import RunIdentity
from microforge.training.loop_options import DataOptions
from microforge.training.runs.plan import RunPlan, StagePlan, spread_over
from microforge.training.runs.starting_weights import latents_id
from microforge.training.settings import EditSettings, FlowSettings

#: Folder of the trajectory cache, in the run's folder.
TRAJECTORIES = "trajectories"


@dataclass(frozen=True, kw_only=True)
class DistillPlan(RunPlan):
    """One run of distillation; ``spec`` is the teacher's configuration."""

    settings: DistillSettings
    out: Path  # of the finished student
    cache: Path
    tasks: tuple[str, ...]
    filter_samples: bool = False
    true_targets: tuple[str, ...] = ()
    #: Task -> the checkpoint that generates its samples instead of the teacher.
    task_teachers: Mapping[str, Checkpoint] = field(default_factory=dict)

    def trajectories(self) -> TrajectoryPlan:
        """The trajectories that the run needs."""
        settings = self.settings
        return TrajectoryPlan(
            rows_per_task(settings.trajectories, self.tasks, settings.generate_share),
            self.size,
            settings.intervals,
            settings.cached_intervals,
            self.loop.seed,
            self.loop.bfloat16,
            self.true_targets,
        )

    def cache_size(self) -> CacheSize:
        """The bytes that the trajectories take on disk."""
        spec, plan = self.spec, self.trajectories()
        height, width = (side // spec.vae.downsample for side in plan.size)
        latent = (spec.latent_channels, height, width)
        intervals = intervals_per_task(plan.rows, self.task_teachers, plan.cached_intervals)
        return predict_size(self.cache, plan.rows, latent, intervals, spec.text_encoder.max_length)

    def identity(self, teacher: Checkpoint) -> RunIdentity:
        """What a state on disk must agree with to be resumed."""
        return RunIdentity(
            self.name,
            f"{self.spec.name} of teacher {teacher_id(teacher)}",
            self.loop.seed,
            latents_id(teacher),
            self.settings.optimizer.kind,
            self.data.label,
        )

    def memory_plan(self) -> StagePlan:
        """The run as a plan that ``memory_estimate`` understands: a trajectory with its segments is a caption with samples."""
        settings = self.settings
        kind: type[FlowSettings] = FlowSettings if len(self.tasks) == 1 else EditSettings
        flow = kind(
            settings.optimizer,
            steps=settings.steps,
            batch=settings.batch,
            noise_samples=settings.student_steps,
        )
        plan = StagePlan(
            stage=self.name,
            name=self.name,
            folder=self.folder,
            spec=self.spec,
            settings=flow,
            loop=self.loop,
            size=self.size,
            data=DataOptions(),
        )
        return spread_over(plan, 1, self.loop.device)

    @property
    def target_spec(self) -> ModelSpec | None:
        """The second network that ``skip`` needs; None without it."""
        return None if self.settings.skip is None else self.spec


def plan_distill(request: DistillRequest, teacher: Checkpoint, estimate: bool = False) -> DistillPlan:
    """The plan of a request; ``estimate``: for a dry run, which needs no ``out``.

    Raises:
        SpecError: for options that cannot work.
        CheckpointError: for checkpoints that cannot work.
        MissingExtraError: for a package that is not installed.
    """
    if teacher.spec.sampler.guidance_distilled:
        raise CheckpointError("this checkpoint was distilled already; distill from its teacher")
    if request.out is None and not estimate:
        raise SpecError("--out is missing: name the folder of the student")
    out = Path("student") if request.out is None else request.out
    options = request.options
    settings = with_values(distill_preset(teacher.spec.name), request.settings, "settings")
    factor = teacher.spec.vae.downsample
    size = teacher.spec.native_size if options.size is None else parse_size(options.size, factor)
    check_size(*size, factor)
    tasks = known_tasks(teacher)
    _check_options(request, tasks)
    folder = out.with_name(out.name + ".run")
    plan = DistillPlan(
        name=settings.name,
        folder=folder,
        spec=teacher.spec,
        settings=settings,
        loop=resolve_loop(request.loop),
        size=size,
        data=request.data,
        out=out,
        cache=folder / TRAJECTORIES if options.cache is None else Path(options.cache),
        tasks=tasks,
        filter_samples=options.filter_samples,
        true_targets=options.true_targets,
        task_teachers=open_task_teachers(options.task_teachers, teacher, settings, options.true_targets),
    )
    spread_over(plan, 1, plan.loop.device)  # refuses a batch that does not divide
    return plan


def _check_options(request: DistillRequest, tasks: tuple[str, ...]) -> None:
    """Refuse options that do not go together, or do not fit the teacher's tasks.

    Raises:
        SpecError: names them.
    """
    options, data, settings = request.options, request.data, request.settings
    if len(tasks) > 1 and not data.has_edits:
        raise SpecError(
            "the teacher edits: --data of your own needs --set edits=FOLDER, with source, instruction and target"
        )
    if data.edits is not None and len(tasks) == 1:
        raise SpecError("edits belongs to a teacher that edits; this one only generates")
    if settings.get("skip") is not None and settings.get("on_policy_fraction") is not None:
        raise SpecError(
            "on_policy_fraction needs targets at the end of a segment and cannot be used with skip"
        )
    if options.filter_samples and not data.built_in:
        raise SpecError("--filter-samples needs captions that the oracle can judge: --data scenes")
    allowed = [task for task in tasks if task in SOURCE_TASKS]
    for task in options.true_targets:
        if task not in allowed:
            raise SpecError(
                f"true_targets has {task!r}; allowed for this teacher: {', '.join(allowed) or 'none'}"
            )
