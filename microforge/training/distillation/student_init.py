"""Where a student starts that is not its teacher's own weights, and a student that is only moved after its teacher."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from microforge.checkpoint import CONFIG, Checkpoint
from microforge.errors import CheckpointError, SpecError
from microforge.io.atomic import atomic_folder, check_output
from microforge.spec import ModelSpec
from microforge.training.distillation.stage import with_vae, write_student
from microforge.training.distillation.teacher import Teacher
from microforge.training.runs.starting_weights import latents_id, open_checkpoint
from microforge.training.stages.flow import FlowNetwork


def starting_student(
    init: Path | None, before: Path | None, teacher: Checkpoint, share: float = 1.0
) -> Checkpoint | None:
    """What a student starts from instead of ``teacher``: another one, of another teacher or run; None without ``init``.

    Args:
        before: the teacher that ``init`` was distilled from. What ``teacher`` has learned since is then added to the
            weights of ``init``, as the difference of the two teachers (task arithmetic, arXiv 2212.04089).
        share: of that difference, how much is added.

    Raises:
        CheckpointError: when one is no student or no teacher, of another configuration, or knows other latents.
        SpecError: for ``before`` or a share alone, or a share that is not positive.
    """
    if not 0.0 < share < math.inf:
        raise SpecError(f"--move is {share}; allowed: above 0")
    if share != 1.0 and before is None:
        raise SpecError(
            "--move says how much of what --init-teacher brings is added; give --init-teacher too"
        )
    if init is None:
        if before is not None:
            raise SpecError(
                "--init-teacher says what the student of --init was distilled from; give --init too"
            )
        return None
    start = alike("--init", init, teacher)
    if not start.spec.sampler.guidance_distilled:
        raise CheckpointError(f"--init {init} is no student: without --init one starts as its teacher")
    if before is None:
        return start
    old = alike("--init-teacher", before, teacher)
    if old.spec.sampler.guidance_distilled:
        raise CheckpointError(f"--init-teacher {before} is a student, not the teacher of one")
    moved = {
        name: value
        if name.startswith("vae.")
        else value + share * (teacher.tensors[name] - old.tensors[name])
        for name, value in start.tensors.items()
    }
    return replace(start, tensors=moved)


def alike(option: str, folder: Path, teacher: Checkpoint) -> Checkpoint:
    """The checkpoint that ``option`` names: of the teacher's configuration, on its latents."""
    found = open_checkpoint(folder)
    if found.spec.name != teacher.spec.name:
        raise CheckpointError(f"{option} {folder} is {found.spec.name}, and the teacher {teacher.spec.name}")
    if latents_id(found) != latents_id(teacher):
        raise CheckpointError(f"{option} {folder} knows the latents of another VAE than the teacher's")
    return found


def move_student(
    out: Path, spec: ModelSpec, teacher: Checkpoint, start: Checkpoint | None, int8_grid: bool, force: bool,
    dry_run: bool,
) -> dict[str, object]:  # fmt: skip
    """Write the student that ``starting_student`` moved as it is: nothing is drawn, nothing trained.

    Args:
        spec: the student's. int8_grid: write its weights as INT8 stores them.

    Raises:
        SpecError: without such a student, or one of other steps. OutputError: when it cannot be written.
    """
    if start is None:
        raise SpecError(
            "--updates 0 only moves a student after its teacher: give --init and --init-teacher, or more updates"
        )
    has, steps = (len(one.sampler.timesteps) - 1 for one in (start.spec, spec))
    if has != steps:
        raise SpecError(f"--init has {has} steps, --steps is {steps}")
    found: dict[str, object] = {"steps": steps, "updates": 0, "loss": None}
    if dry_run:
        return found
    check_output(out, force)
    holder, network = Teacher(teacher, "cpu"), FlowNetwork(teacher.spec)
    network.load(start)
    with atomic_folder(out, force=force, marker=CONFIG) as target:
        write_student(target, with_vae(network, holder, spec), holder, int8_grid)
    return {"checkpoint": str(out.absolute()), **found}
