"""Per-task teachers: checkpoints that generate the training samples of a task instead of the teacher.

Learning from an earlier student's samples avoids forgetting (arXiv 1606.09282), and its few steps cost a sixteenth of the
teacher's guided ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from microforge.checkpoint import Checkpoint
from microforge.errors import SpecError
from microforge.training.distillation.settings import DistillSettings
from microforge.training.distillation.student_init import compatible_checkpoint
from microforge.training.distillation.teacher import known_tasks


def open_task_teachers(
    assignments: Sequence[str],
    teacher: Checkpoint,
    settings: DistillSettings,
    true_targets: Collection[str] = (),
) -> dict[str, Checkpoint]:
    """Task -> the checkpoint that generates its samples; the teacher generates those of all other tasks.

    Args:
        assignments: ``TASK=CHECKPOINT`` each.
        teacher: The teacher of the run.
        settings: Settings of the student.
        true_targets: Tasks that learn the results of the data, so that nothing is sampled.

    Raises:
        SpecError: for a text that is not such a pair, a task that a checkpoint does not know, that is named twice, or
            that has true targets.
        CheckpointError: for a checkpoint of another configuration or other latents.
    """
    teachers: dict[str, Checkpoint] = {}
    opened: dict[str, Checkpoint] = {}  # by folder: one checkpoint may serve several tasks
    for text in assignments:
        task, _, folder = text.partition("=")
        allowed = [name for name in known_tasks(teacher) if name not in true_targets]
        if task not in allowed or not folder:
            raise SpecError(
                f"--task-teacher is {text!r}; write TASK=CHECKPOINT, with a task of: {', '.join(allowed) or 'none'}"
            )
        if task in teachers:
            raise SpecError(f"--task-teacher names {task} twice; a task has one teacher")
        if folder not in opened:
            opened[folder] = compatible_checkpoint("--task-teacher", folder, teacher)
        _check(task, folder, opened[folder], settings)
        teachers[task] = opened[folder]
    return teachers


def _check(task: str, folder: str, checkpoint: Checkpoint, settings: DistillSettings) -> None:
    """Check that ``checkpoint``, from ``folder``, can generate samples of ``task`` for a student of ``settings``.

    Raises:
        SpecError: when it cannot.
    """
    if task not in known_tasks(checkpoint):
        raise SpecError(
            f"--task-teacher {folder} does not know {task}; it knows {', '.join(known_tasks(checkpoint))}"
        )
    steps = student_steps(checkpoint)
    if steps is None:
        return
    if settings.skip is not None:
        raise SpecError(
            f"--task-teacher {folder} is a student, which has no steps within a segment; leave out skip"
        )
    if steps != settings.student_steps:
        raise SpecError(
            f"--task-teacher {folder} has {steps} sampling steps, --student-steps is {settings.student_steps}"
        )


def student_steps(checkpoint: Checkpoint) -> int | None:
    """The sampling steps of a student; None for a teacher, which uses ``TEACHER_STEPS`` guided ones."""
    sampler = checkpoint.spec.sampler
    return len(sampler.timesteps) - 1 if sampler.guidance_distilled else None


def intervals_per_task(
    tasks: Collection[str], teachers: Mapping[str, Checkpoint], intervals: int
) -> dict[str, int]:
    """Task -> the cached intervals of its trajectories: ``intervals`` for a teacher's, all steps for a student's."""
    return {
        task: (student_steps(teachers[task]) if task in teachers else None) or intervals for task in tasks
    }
