"""The finished checkpoints that a run stands on: its VAE, the weights it starts from, its teacher."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from microforge.checkpoint import CONFIG, SHIPPED_STUDENT, SHIPPED_TEACHER, Checkpoint, read_checkpoint
from microforge.errors import CheckpointError
from microforge.spec import ModelSpec, check_size
from microforge.training.runs.plan import CHECKPOINT, DECODER, StagePlan, TrainRequest
from microforge.training.settings import ON_A_FLOW
from microforge.training.stages.kd import check_teacher

#: What ``--init`` and ``--teacher`` call the checkpoint that ships with the package.
SHIPPED = "pretrained"
#: Every checkpoint that ships, by such a name: that one, and its few-step student.
SHIPPED_FOLDERS: Mapping[str, Path] = types.MappingProxyType(
    {SHIPPED: SHIPPED_TEACHER, "student": SHIPPED_STUDENT}
)


@dataclass(frozen=True)
class Ground:
    """What a run stands on; ``vae`` is None only for a run that trains a whole VAE.

    ``teacher``: whom kd learns from, whose generation edit keeps, or who draws for reward and rewrite.
    """

    vae: Checkpoint | None = None
    init: Checkpoint | None = None
    teacher: Checkpoint | None = None

    @property
    def encoder(self) -> str:
        """Identifies the latents of the run; empty where it makes its own."""
        return "" if self.vae is None else latents_id(self.vae)


def open_checkpoint(name: str | Path) -> Checkpoint:
    """The checkpoint folder ``name``, or a shipped one for "pretrained" and "student".

    Raises:
        CheckpointError: when it is missing or damaged.
    """
    return read_checkpoint(SHIPPED_FOLDERS.get(str(name), name))


def latents_id(checkpoint: Checkpoint) -> str:
    """Identifies the latents that a checkpoint's VAE makes: its encoder and the statistics it normalises with.

    Rounded to half precision first, so that a checkpoint stays the same when it is stored as fp16.
    """
    digest = hashlib.sha256(repr((checkpoint.spec.vae.mean, checkpoint.spec.vae.std)).encode())
    for name, value in sorted(checkpoint.module_tensors("vae.encoder").items()):
        digest.update(name.encode() + value.to(torch.float16).numpy().tobytes())
    return digest.hexdigest()[:16]


def find_ground(request: TrainRequest, plan: StagePlan, init: Checkpoint | None) -> Ground:
    """What the stage stands on in the layout RUN/vae, RUN/vae-decoder, RUN/flow.

    Raises:
        CheckpointError: when something is missing.
    """
    teacher = None if request.teacher is None else open_checkpoint(request.teacher)
    flow = request.out / "flow" / CHECKPOINT
    if plan.stage in ("kd", *ON_A_FLOW) and init is None and (flow / CONFIG).is_file():
        init = _of_config(flow, plan.spec)
    if plan.stage in ON_A_FLOW and init is None:
        raise CheckpointError(
            f"{request.out} has no flow yet: run mf-train flow --config {plan.spec.name} --out {request.out} first, "
            "or give --init CHECKPOINT"
        )
    if plan.stage == "vae" and not plan.decoder_only:
        return Ground(init=init)
    vae = init if init is not None else _trained_vae(request.out, plan)
    if vae is None:
        vae = teacher
    if vae is None:
        raise CheckpointError(
            f"{request.out} has no VAE yet: run mf-train vae --config {plan.spec.name} --out {request.out} first, "
            "or give --init CHECKPOINT"
        )
    return Ground(vae, None if plan.decoder_only else init, teacher)


def _trained_vae(out: Path, plan: StagePlan) -> Checkpoint | None:
    """The VAE of RUN/vae, with the decoder of RUN/vae-decoder where there is one."""
    folder, tuned = (out / name / CHECKPOINT for name in ("vae", DECODER))
    if not (folder / CONFIG).is_file():
        return None
    found = _of_config(folder, plan.spec)
    if plan.decoder_only or not (tuned / CONFIG).is_file():
        return found
    better = read_checkpoint(tuned)
    if latents_id(better) != latents_id(found):
        raise CheckpointError(
            f"{tuned} belongs to an older VAE; run mf-train vae --decoder-only --force again or remove {tuned.parent}"
        )
    return better


def _of_config(folder: Path, spec: ModelSpec) -> Checkpoint:
    found = read_checkpoint(folder)
    if found.spec.name != spec.name:
        raise CheckpointError(f"{folder} was trained with --config {found.spec.name}, not {spec.name}")
    return found


def stand_on(plan: StagePlan, ground: Ground) -> StagePlan:
    """The plan with the VAE, and its latents' statistics, that it stands on.

    Raises:
        CheckpointError: when a checkpoint is of another configuration, or the teacher knows other latents.
    """
    spec = plan.spec
    for what, found in (("the VAE", ground.vae), ("--init", ground.init)):
        if found is not None and found is not ground.teacher:
            _check_config(what, found, spec, whole=found is ground.init and plan.stage != "vae")
    if ground.init is not None and ground.init.spec.sampler.guidance_distilled:
        raise CheckpointError(
            "--init was distilled to few steps; start from the checkpoint that it was distilled from"
        )
    if ground.vae is None:
        return plan
    if plan.stage != "vae" and ground.init is not None and latents_id(ground.init) != latents_id(ground.vae):
        raise CheckpointError("--init learned the latents of another VAE: leave its own in place")
    if ground.teacher is not None:
        if latents_id(ground.teacher) != latents_id(ground.vae):
            raise CheckpointError(
                "the teacher was trained on the latents of another VAE than the student's: train both on the same, "
                "or leave the student's VAE out to take the teacher's"
            )
        check_teacher(ground.teacher, ground.vae.tokenizer, spec.text_encoder.max_length)
    check_size(*plan.size, ground.vae.spec.vae.downsample)
    return replace(plan, spec=replace(spec, vae=ground.vae.spec.vae))


def _check_config(what: str, found: Checkpoint, spec: ModelSpec, whole: bool) -> None:
    """Raise CheckpointError unless ``found`` is of the configuration ``spec``; ``whole``: not its VAE alone."""
    if found.spec.name != spec.name:
        raise CheckpointError(f"{what} was trained with --config {found.spec.name}, not {spec.name}")
    parts = {"vae": (_plain(found.spec), _plain(spec))}
    if whole:
        parts["backbone"] = (found.spec.backbone, spec.backbone)
        parts["planner"] = (found.spec.planner, spec.planner)
        parts["text encoder"] = (found.spec.text_encoder, spec.text_encoder)
    for part, (theirs, ours) in parts.items():
        if theirs != ours:
            raise CheckpointError(f"{what} has the {part} {theirs}, --config {spec.name} has {ours}")


def _plain(spec: ModelSpec) -> object:
    """The VAE without what was measured on its latents."""
    return replace(spec.vae, latent_mean=(), latent_std=())
