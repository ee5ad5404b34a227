"""The checkpoints that a run starts from: its VAE, its starting weights and its teacher."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from microforge.checkpoint import CONFIG, SHIPPED_STUDENT, SHIPPED_TEACHER, Checkpoint, read_checkpoint
from microforge.errors import CheckpointError
from microforge.spec import ModelSpec, VAESpec, check_size
from microforge.training.runs.plan import CHECKPOINT, DECODER, StagePlan
from microforge.training.runs.request import TrainRequest
from microforge.training.settings import CONTINUED_STAGES
from microforge.training.stages.kd import check_teacher

#: The name of the shipped teacher on the command line.
SHIPPED = "pretrained"
#: The names of all shipped checkpoints on the command line.
SHIPPED_FOLDERS: Mapping[str, Path] = types.MappingProxyType(
    {SHIPPED: SHIPPED_TEACHER, "student": SHIPPED_STUDENT}
)


@dataclass(frozen=True)
class StartingWeights:
    """The checkpoints of a run; ``vae`` is None only for a run that trains a whole VAE.

    ``teacher`` is the teacher of kd, the reference of edit, or the generator of the samples of reward and rewrite.
    """

    vae: Checkpoint | None = None
    init: Checkpoint | None = None
    teacher: Checkpoint | None = None

    @property
    def encoder(self) -> str:
        """Identifies the latents of the run; empty where it trains its own encoder."""
        return "" if self.vae is None else latents_id(self.vae)


def open_checkpoint(name: str | Path) -> Checkpoint:
    """The checkpoint in the folder ``name``, or a shipped one for "pretrained" and "student".

    Raises:
        CheckpointError: when it is missing or damaged.
    """
    return read_checkpoint(SHIPPED_FOLDERS.get(str(name), name))


def latents_id(checkpoint: Checkpoint) -> str:
    """Identifies the latents of a checkpoint's VAE: its encoder and the statistics that normalise them.

    Weights are rounded to half precision first, so that the identity survives storing a checkpoint as fp16.
    """
    digest = hashlib.sha256(repr((checkpoint.spec.vae.mean, checkpoint.spec.vae.std)).encode())
    for name, value in sorted(checkpoint.module_tensors("vae.encoder").items()):
        digest.update(name.encode() + value.to(torch.float16).numpy().tobytes())
    return digest.hexdigest()[:16]


def find_starting_weights(request: TrainRequest, plan: StagePlan, init: Checkpoint | None) -> StartingWeights:
    """The checkpoints of a stage, from ``--init``, ``--teacher`` and the folders RUN/vae, RUN/vae-decoder and RUN/flow.

    Raises:
        CheckpointError: when one is missing.
    """
    teacher = None if request.options.teacher is None else open_checkpoint(request.options.teacher)
    flow = request.out / "flow" / CHECKPOINT
    if plan.stage in ("kd", *CONTINUED_STAGES) and init is None and (flow / CONFIG).is_file():
        init = _of_config(flow, plan.spec)
    if plan.stage in CONTINUED_STAGES and init is None:
        raise CheckpointError(
            f"{request.out} has no flow yet: run mf-train flow --config {plan.spec.name} --out {request.out} first, "
            "or give --init CHECKPOINT"
        )
    if plan.stage == "vae" and not plan.decoder_only:
        return StartingWeights(init=init)
    vae = init if init is not None else _trained_vae(request.out, plan)
    if vae is None:
        vae = teacher
    if vae is None:
        raise CheckpointError(
            f"{request.out} has no VAE yet: run mf-train vae --config {plan.spec.name} --out {request.out} first, "
            "or give --init CHECKPOINT"
        )
    return StartingWeights(vae, None if plan.decoder_only else init, teacher)


def _trained_vae(out: Path, plan: StagePlan) -> Checkpoint | None:
    """The VAE of RUN/vae, with the decoder of RUN/vae-decoder where there is one."""
    folder, tuned = (out / name / CHECKPOINT for name in ("vae", DECODER))
    if not (folder / CONFIG).is_file():
        return None
    trained = _of_config(folder, plan.spec)
    if plan.decoder_only or not (tuned / CONFIG).is_file():
        return trained
    better = read_checkpoint(tuned)
    if latents_id(better) != latents_id(trained):
        raise CheckpointError(
            f"{tuned} belongs to an older VAE; run mf-train vae --set decoder_only=true --force again or remove "
            f"{tuned.parent}"
        )
    return better


def _of_config(folder: Path, spec: ModelSpec) -> Checkpoint:
    checkpoint = read_checkpoint(folder)
    if checkpoint.spec.name != spec.name:
        raise CheckpointError(f"{folder} was trained with --config {checkpoint.spec.name}, not {spec.name}")
    return checkpoint


def resolve_plan(plan: StagePlan, weights: StartingWeights) -> StagePlan:
    """The plan with the VAE, and the statistics of its latents, that it trains on.

    Raises:
        CheckpointError: when a checkpoint is of another configuration, or the teacher uses other latents.
    """
    spec = plan.spec
    for what, checkpoint in (("the VAE", weights.vae), ("--init", weights.init)):
        if checkpoint is not None and checkpoint is not weights.teacher:
            whole = checkpoint is weights.init and plan.stage != "vae"
            _check_config(what, checkpoint, spec, whole)
    if weights.init is not None and weights.init.spec.sampler.guidance_distilled:
        raise CheckpointError("--init was distilled to few steps; start from the teacher of that student")
    if weights.vae is None:
        return plan
    if (
        plan.stage != "vae"
        and weights.init is not None
        and latents_id(weights.init) != latents_id(weights.vae)
    ):
        raise CheckpointError("--init was trained on the latents of another VAE: its own must be used")
    if weights.teacher is not None:
        if latents_id(weights.teacher) != latents_id(weights.vae):
            raise CheckpointError(
                "the teacher was trained on the latents of another VAE than the student's: train both on the same, "
                "or leave the student's VAE out to use the teacher's"
            )
        check_teacher(weights.teacher, weights.vae.tokenizer, spec.text_encoder.max_length)
    check_size(*plan.size, weights.vae.spec.vae.downsample)
    return replace(plan, spec=replace(spec, vae=weights.vae.spec.vae))


def _check_config(what: str, checkpoint: Checkpoint, spec: ModelSpec, whole: bool) -> None:
    """Refuse a checkpoint of another configuration than ``spec``; ``whole``: compare more than the VAE.

    Raises:
        CheckpointError: names the first part that differs.
    """
    stored = checkpoint.spec
    if stored.name != spec.name:
        raise CheckpointError(f"{what} was trained with --config {stored.name}, not {spec.name}")
    parts: dict[str, tuple[object, object]] = {
        "vae": (_without_statistics(stored), _without_statistics(spec))
    }
    if whole:
        parts["backbone"] = (stored.backbone, spec.backbone)
        parts["planner"] = (stored.planner, spec.planner)
        parts["text encoder"] = (stored.text_encoder, spec.text_encoder)
    for part, (one, other) in parts.items():
        if one != other:
            raise CheckpointError(f"{what} has the {part} {one}, --config {spec.name} has {other}")


def _without_statistics(spec: ModelSpec) -> VAESpec:
    """The VAE's configuration without the statistics of its latents."""
    return replace(spec.vae, latent_mean=(), latent_std=())
