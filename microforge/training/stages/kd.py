"""Stage 4: knowledge distillation, the flow loss together with the velocity of a larger teacher (SPEC section 4).

``L_flow + lambda (1 - t) ||v_student - v_teacher||^2``: near the image (small t) the teacher's velocity is the better
target, because it averages over the noise of a single sample.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from microforge.checkpoint import Checkpoint
from microforge.errors import CheckpointError
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.loop import StageDefaults
from microforge.training.settings import KDSettings
from microforge.training.stages.flow import FlowStage
from microforge.training.stages.flow_network import flow_terms, frozen_network, predict


class KDStage(StageDefaults):
    """A ``FlowStage`` whose student also matches a teacher on the same noisy latents and captions."""

    def __init__(self, flow: FlowStage, settings: KDSettings, teacher: Checkpoint) -> None:
        """Load the teacher.

        Args:
            flow: The stage that provides batches and the student.
            settings: The settings that ``flow`` was built with.
            teacher: Backbone, planner and text encoder of any size; ``check_teacher`` has accepted it.
        """
        self.flow, self.settings, self.data_sources = flow, settings, flow.data_sources
        self.samples_per_step = flow.samples_per_step
        self.teacher = frozen_network(teacher, flow.context.loop)

    @property
    def network(self) -> nn.Module:
        """The student."""
        return self.flow.network

    def loss(self, step: int, shard: BatchShard = WHOLE) -> Mapping[str, Tensor]:
        """The flow's terms and ``teacher``: (1 - t) times the squared distance to the teacher's velocity."""
        batch = self.flow.make_batch(step, shard)
        velocity, plan = predict(self.flow.network, batch)
        terms = flow_terms(batch, velocity, plan, self.settings.diversity)
        with torch.no_grad():
            target, _ = predict(self.teacher, batch)
        distance = (velocity.float() - target.float()).square().mean((1, 2, 3))  # (S,)
        teacher = ((1.0 - batch.t) * distance).mean()
        return {**terms, "loss": terms["loss"] + self.settings.teacher_weight * teacher, "teacher": teacher}

    def sheet(self, ema: nn.Module) -> Tensor:
        """As the flow's."""
        return self.flow.sheet(ema)

    def write(self, folder: Path, ema: nn.Module) -> None:
        """Write a checkpoint of the student, a whole model."""
        self.flow.context.write(folder, ema, ("vae", "flow", "kd"))


def check_teacher(teacher: Checkpoint, tokenizer: Path | None, max_length: int) -> None:
    """Check that a teacher is a whole model and reads the student's captions unchanged.

    Args:
        teacher: The checkpoint.
        tokenizer: The student's ``tokenizer.json``.
        max_length: Token ids per caption.

    Raises:
        CheckpointError: when it lacks a part, has another tokenizer, or a shorter text length.
    """
    for part in ("backbone", "planner", "text_encoder"):
        if not teacher.module_tensors(part):
            raise CheckpointError(f"the teacher has no {part}: give a checkpoint of the stage flow")
    if tokenizer is None or teacher.tokenizer is None or _values(tokenizer) != _values(teacher.tokenizer):
        raise CheckpointError(
            "teacher and student have different tokenizers; both must be trained with the same"
        )
    if teacher.spec.text_encoder.max_length < max_length:
        raise CheckpointError(
            f"the teacher reads {teacher.spec.text_encoder.max_length} tokens and the student {max_length}; "
            "the teacher must read as many or more"
        )


def _values(path: Path) -> object:
    """The content of a tokenizer file, independent of its formatting."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read tokenizer {path}: {error}") from None
