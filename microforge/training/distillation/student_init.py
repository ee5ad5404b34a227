"""Student initialisation: from an earlier student, optionally plus a task vector."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from microforge.checkpoint import Checkpoint
from microforge.errors import CheckpointError, SpecError
from microforge.training.runs.starting_weights import latents_id, open_checkpoint


def initial_student(
    init: str | Path | None,
    init_teacher: str | Path | None,
    teacher: Checkpoint,
    delta_scale: float = 1.0,
) -> Checkpoint | None:
    """The starting weights of a student; None, without ``init``, stands for those of ``teacher``.

    Args:
        init: An earlier student, of another teacher or run.
        init_teacher: The teacher that ``init`` was distilled from. The student then starts from the weights of ``init`` plus
            (``teacher`` - this teacher), a task-vector update (task arithmetic, arXiv 2212.04089).
        teacher: The teacher of this run.
        delta_scale: Scale of that weight difference; lower preserves more of ``init``.

    Raises:
        CheckpointError: when a checkpoint is no student or no teacher, of another configuration, or uses other latents.
        SpecError: for ``init_teacher`` or a scale alone, or a scale that is not positive.
    """
    if not 0.0 < delta_scale < math.inf:
        raise SpecError(f"delta_scale is {delta_scale}; allowed: above 0")
    if delta_scale != 1.0 and init_teacher is None:
        raise SpecError("delta_scale scales the difference to init_teacher; give init_teacher too")
    if init is None:
        if init_teacher is not None:
            raise SpecError("init_teacher is the teacher of the student --init; give --init too")
        return None
    student = compatible_checkpoint("--init", init, teacher)
    if not student.spec.sampler.guidance_distilled:
        raise CheckpointError(f"--init {init} is no student: without --init a student starts as its teacher")
    if init_teacher is None:
        return student
    previous = compatible_checkpoint("init_teacher", init_teacher, teacher)
    if previous.spec.sampler.guidance_distilled:
        raise CheckpointError(f"init_teacher {init_teacher} is a student, not the teacher of one")
    updated = {
        name: value
        if name.startswith("vae.")
        else value + delta_scale * (teacher.tensors[name] - previous.tensors[name])
        for name, value in student.tensors.items()
    }
    return replace(student, tensors=updated)


def compatible_checkpoint(option: str, folder: str | Path, teacher: Checkpoint) -> Checkpoint:
    """The checkpoint of an option; it must have the teacher's configuration and latents.

    Raises:
        CheckpointError: when it has not.
    """
    checkpoint = open_checkpoint(folder)
    if checkpoint.spec.name != teacher.spec.name:
        raise CheckpointError(
            f"{option} {folder} is {checkpoint.spec.name}, but the teacher is {teacher.spec.name}"
        )
    if latents_id(checkpoint) != latents_id(teacher):
        raise CheckpointError(
            f"{option} {folder} was trained on the latents of another VAE than the teacher's"
        )
    return checkpoint
