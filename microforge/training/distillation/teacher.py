"""Frozen networks that generate training samples: a teacher, or an earlier student.

Letters: B samples, P points of a trajectory, L text tokens, C h w latent channels, height and width.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from microforge.checkpoint import Checkpoint
from microforge.data.edit_examples import Triples
from microforge.errors import CheckpointError
from microforge.latent_blending import after_step, latent_mask
from microforge.sampling import AfterStep, batch_time, interpolate, uniform_grid
from microforge.spec import TASKS, to_dict
from microforge.streams import STREAM_LENGTH, TensorStream
from microforge.tokenizer import PromptTokenizer
from microforge.training.caches.encoder import token_ids
from microforge.training.distillation.rollout import RolloutGrid, RolloutInputs, guided_rollout
from microforge.training.distillation.settings import TEACHER_ORDER, TEACHER_STEPS
from microforge.training.distillation.trajectory_cache import CacheIdentity, TrajectoryBatch
from microforge.training.engine.state import step_generator
from microforge.training.stages.flow_network import FlowNetwork
from microforge.vae import MicroForgeVAE

#: The task mix of the edit stage (SPEC section 6); a student learns those tasks of it that its teacher knows.
SHARES: Mapping[str, float] = types.MappingProxyType(
    {"generate": 0.40, "edit": 0.35, "inpaint": 0.15, "super-resolve": 0.10}
)


def known_tasks(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The tasks that a checkpoint was trained in."""
    return TASKS if "edit" in checkpoint.stages else checkpoint.spec.tasks


def task_shares(tasks: Sequence[str], generate: float | None = None) -> dict[str, float]:
    """The share of each of ``tasks`` in a batch; they sum to 1.

    Args:
        tasks: What the student learns.
        generate: Share of text-to-image among several tasks; the others keep their proportions.
    """
    total = sum(SHARES[task] for task in tasks)
    shares = {task: SHARES[task] / total for task in tasks}
    if generate is None or len(tasks) == 1:
        return shares
    scale = (1.0 - generate) / (1.0 - shares["generate"])
    return {task: generate if task == "generate" else share * scale for task, share in shares.items()}


def rows_per_task(count: int, tasks: Sequence[str], generate: float | None = None) -> dict[str, int]:
    """``count`` trajectories divided among the tasks, at least one each; ``generate`` as in ``task_shares``."""
    return {task: max(1, round(share * count)) for task, share in task_shares(tasks, generate).items()}


def teacher_id(checkpoint: Checkpoint) -> str:
    """Identifies a teacher: its weights and its configuration."""
    text = checkpoint.sha256 + repr(to_dict(checkpoint.spec))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TrajectoryPlan:
    """Which trajectories a cache holds: rows per task at one size, and the intervals that training needs."""

    rows: Mapping[str, int]
    size: tuple[int, int]
    intervals: int
    cached_intervals: int  # that new files store
    seed: int
    bfloat16: bool
    true_targets: tuple[
        str, ...
    ] = ()  # tasks that learn the results of the data instead of a teacher's samples


class FrozenTeacher:
    """A whole checkpoint on one device, without gradients, and the trajectories that it generates."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        """Load the networks and the tokenizer.

        Raises:
            CheckpointError: when the checkpoint lacks a part or its tokenizer.
        """
        if checkpoint.tokenizer is None:
            raise CheckpointError("the teacher has no tokenizer.json, so it cannot read prompts")
        self.checkpoint, self.spec, self.device = checkpoint, checkpoint.spec, device
        self.tokenizer = PromptTokenizer.load(checkpoint.tokenizer)
        self.network = FlowNetwork(self.spec).requires_grad_(False).eval()
        self.network.load(checkpoint)
        self.vae = MicroForgeVAE(self.spec.vae).requires_grad_(False).eval()
        checkpoint.load_into("vae", self.vae)
        self.network.to(device)
        self.vae.to(device)

    def identity(self, plan: TrajectoryPlan, data: str) -> CacheIdentity:
        """What a cache file of this teacher was generated with; ``data`` is the fingerprint of images, captions and edits."""
        sampler = self.spec.sampler
        guidance = f"{sampler.text_guidance:g} {sampler.image_guidance:g}"
        if plan.true_targets:
            guidance += f" true {','.join(plan.true_targets)}"
        return CacheIdentity(
            teacher_id(self.checkpoint),
            guidance,
            f"{plan.size[0]}x{plan.size[1]}",
            hashlib.sha256(data.encode()).hexdigest()[:16],
            plan.seed,
            "bf16" if plan.bfloat16 else "fp32",
        )

    def ids(self, texts: Sequence[str | None], task: str) -> Tensor:
        """Token ids (B, L) on the device; None stands for the empty prompt of the task."""
        return token_ids(self.tokenizer, texts, task, self.spec.text_encoder.max_length).to(self.device)

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) in float32 of images (B, 3, H, W)."""
        return self.vae.normalize(self.vae.encode(images.to(self.device)).mean)

    def generate(self, examples: Triples, task: str, number: int, plan: TrajectoryPlan) -> TrajectoryBatch:
        """The trajectories of ``examples``, which are those of the cache file ``number`` of ``task``."""
        truth = self.latents(examples.targets)
        source = None if task == "generate" else self.latents(examples.sources)
        stream = TensorStream.TRAJECTORY_NOISE + TASKS.index(task) * STREAM_LENGTH + number
        generator = step_generator(plan.seed, stream)
        noise = torch.randn(truth.shape, generator=generator).to(self.device)
        ids = self.ids(examples.texts, task)
        if source is not None and task in plan.true_targets:
            times = (batch_time(t, len(truth), truth.device) for t in uniform_grid(plan.cached_intervals))
            straight = torch.stack([interpolate(truth, noise, t) for t in times], 1)  # (B, P, C, h, w)
            return TrajectoryBatch(straight, truth, ids, source)
        inputs = RolloutInputs(ids, self.ids([None], task), source)
        blending = self._after_step(task, truth, source, noise, examples.masks)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=plan.bfloat16):
            points = guided_rollout(
                self.network, inputs, noise, self._grid(plan.cached_intervals), self.spec.sampler, blending
            )
        return TrajectoryBatch(points, truth, ids, source)

    def _grid(self, intervals: int) -> RolloutGrid:
        """The steps of a teacher that give ``intervals`` intervals; a student has its own steps."""
        if self.spec.sampler.guidance_distilled:
            return RolloutGrid(self.spec.sampler.timesteps, 1)
        return RolloutGrid(uniform_grid(TEACHER_STEPS), TEACHER_STEPS // intervals, TEACHER_ORDER)

    def _after_step(
        self, task: str, truth: Tensor, source: Tensor | None, noise: Tensor, masks: Tensor | None
    ) -> AfterStep | None:
        """The blending of ``MicroForgePipeline``: known or unchanged latents are those of the source."""
        if source is None:
            return None
        known, changing = source, None
        if masks is not None:
            # the latents of ``source`` are those of a grey mask; outside of it ``truth`` has the same pixels
            known, changing = truth, latent_mask(masks.to(truth), self.vae.spec.downsample)
        preserve = self.spec.sampler.preserve_distances if task == "edit" else None
        return after_step(known, noise, changing, preserve)
