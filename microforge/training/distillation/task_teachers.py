"""Checkpoints that draw, in the teacher's place, what a student learns of a task: ``--drawer TASK=CHECKPOINT``.

A student of before draws in its own few steps what it can, and a new one that learns it does not lose it (learning
without forgetting, arXiv 1606.09282); its drawings cost a sixteenth of the teacher's guided ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from microforge.checkpoint import Checkpoint
from microforge.errors import SpecError
from microforge.training.distillation.settings import DistillSettings
from microforge.training.distillation.student_init import alike
from microforge.training.distillation.teacher import known_tasks


def open_drawers(
    given: Sequence[str], teacher: Checkpoint, settings: DistillSettings, true_targets: Collection[str] = ()
) -> dict[str, Checkpoint]:
    """Task -> the checkpoint that draws it; tasks that ``given`` does not name are the teacher's.

    Args:
        given: ``TASK=CHECKPOINT`` each.
        true_targets: tasks that learn the data's own results, which nobody draws.

    Raises:
        SpecError: for what is no such pair, a task that the teacher or the drawer does not know, or one that is named
            twice or has true targets. CheckpointError: for a checkpoint of another configuration or other latents.
    """
    found: dict[str, Checkpoint] = {}
    read: dict[str, Checkpoint] = {}  # by folder: one may draw several tasks
    for text in given:
        task, _, folder = text.partition("=")
        allowed = [name for name in known_tasks(teacher) if name not in true_targets]
        if task not in allowed or not folder:
            raise SpecError(
                f"--drawer is {text!r}; write TASK=CHECKPOINT, with a task of: {', '.join(allowed) or 'none'}"
            )
        if task in found:
            raise SpecError(f"--drawer names {task} twice; one checkpoint draws a task")
        if folder not in read:
            read[folder] = alike("--drawer", Path(folder), teacher)
        _check_drawer(task, folder, read[folder], settings)
        found[task] = read[folder]
    return found


def _check_drawer(task: str, folder: str, checkpoint: Checkpoint, settings: DistillSettings) -> None:
    """Raise SpecError when ``checkpoint``, from ``folder``, cannot draw ``task`` for a student of ``settings``."""
    if task not in known_tasks(checkpoint):
        raise SpecError(
            f"--drawer {folder} does not know {task}; it knows {', '.join(known_tasks(checkpoint))}"
        )
    steps = few_steps(checkpoint)
    if steps is None:
        return
    if settings.skip is not None:
        raise SpecError(
            f"--drawer {folder} is a student, which has no steps within a window; leave out --skip"
        )
    if steps != settings.steps:
        raise SpecError(f"--drawer {folder} has {steps} steps, --steps is {settings.steps}")


def few_steps(checkpoint: Checkpoint) -> int | None:
    """The steps of a student; None for a teacher, which draws in ``TEACHER_STEPS`` guided ones."""
    sampler = checkpoint.spec.sampler
    return len(sampler.timesteps) - 1 if sampler.guidance_distilled else None


def kept_intervals(tasks: Collection[str], drawers: Mapping[str, Checkpoint], kept: int) -> dict[str, int]:
    """Task -> the intervals between the points of its drawings: ``kept`` of a teacher's, all of a student's."""
    return {task: (few_steps(drawers[task]) if task in drawers else None) or kept for task in tasks}
