"""Stage 4: knowledge distillation, the flow loss with a larger model's velocity beside it (SPEC section 4).

``L_flow + lambda (1 - t) ||v_student - v_teacher||^2``: near the image (small t) the teacher's velocity is the
better target, since the noise of a single draw is averaged out of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from microforge.checkpoint import Checkpoint
from microforge.errors import CheckpointError
from microforge.training.engine.batch_shard import WHOLE, Shard
from microforge.training.engine.loop import WithoutAdversary
from microforge.training.settings import KDSettings
from microforge.training.stages.flow import FlowStage, flow_terms, frozen_network, predict


class KDStage(WithoutAdversary):
    """A ``FlowStage`` whose student also follows a teacher on the same noisy latents and captions."""

    def __init__(self, flow: FlowStage, settings: KDSettings, teacher: Checkpoint) -> None:
        """``teacher``: any size of backbone, planner and text encoder; ``check_teacher`` has passed."""
        self.flow, self.settings = flow, settings
        self.samples_per_step = flow.samples_per_step
        self.teacher = frozen_network(teacher, flow.loop)

    @property
    def network(self) -> nn.Module:
        return self.flow.network

    def loss(self, step: int, shard: Shard = WHOLE) -> Mapping[str, Tensor]:
        """The flow's terms and ``teacher``: (1 - t) times the squared distance to the teacher's velocity."""
        batch = self.flow.draw(step, shard)
        velocity, plan = predict(self.flow.network, batch)
        terms = flow_terms(batch, velocity, plan, self.settings.diversity)
        with torch.no_grad():
            wanted, _ = predict(self.teacher, batch)
        distance = (velocity.float() - wanted.float()).square().mean((1, 2, 3))  # (B,)
        follow = ((1.0 - batch.t) * distance).mean()
        return {**terms, "loss": terms["loss"] + self.settings.teacher_weight * follow, "teacher": follow}

    def sheet(self, ema: nn.Module) -> Tensor:
        """As the flow's."""
        return self.flow.sheet(ema)

    def write(self, folder: Path, ema: nn.Module) -> None:
        """The student as a checkpoint of its own."""
        self.flow.write(folder, ema, ("vae", "flow", "kd"))


def check_teacher(teacher: Checkpoint, tokenizer: Path | None, max_length: int) -> None:
    """A teacher must be whole, and read the student's captions as they are.

    Args:
        tokenizer: the student's ``tokenizer.json``. max_length: ids per caption.

    Raises:
        CheckpointError: when it lacks a part, has another tokenizer, or reads shorter captions.
    """
    for part in ("backbone", "planner", "text_encoder"):
        if not teacher.module_tensors(part):
            raise CheckpointError(f"the teacher has no {part}: give a checkpoint of the stage flow")
    if tokenizer is None or teacher.tokenizer is None or _words(tokenizer) != _words(teacher.tokenizer):
        raise CheckpointError(
            "teacher and student have different tokenizers; both must be trained with the same"
        )
    if teacher.spec.text_encoder.max_length < max_length:
        raise CheckpointError(
            f"the teacher reads {teacher.spec.text_encoder.max_length} tokens and the student {max_length}; "
            "the teacher must read as many or more"
        )


def _words(path: Path) -> object:
    """A tokenizer's file as values, however it is laid out."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read tokenizer {path}: {error}") from None
