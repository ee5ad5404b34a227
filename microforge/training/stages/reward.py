"""Stage reward: a trained model learns from the oracle's verdicts on its own samples.

DiffusionNFT (arXiv 2509.16117): a sample is noised again, and with A its advantage over the other samples of its prompt, the
velocity moves from the reference ``v_ref`` by A times the reference's error::

    || v - (v_ref + A (v* - v_ref)) ||^2,   v* = eps - z0

The minimum is at ``v_ref + E[A (v* - v_ref)]``: closer to what correct samples have in common, further from incorrect ones,
and unchanged where A is zero. Nothing is differentiated through the sampler and any sampler may be used, so a few-step
student of the same model can generate the samples sixteen times as fast.

Letters: B prompts of a step, S = B * noise samples, L text tokens, C h w latent channels, height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from microforge.checkpoint import Checkpoint
from microforge.sampling import loss_weight, velocity_target
from microforge.streams import StepStream, TensorStream
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.distributed import Processes
from microforge.training.engine.state import step_generator, step_rng
from microforge.training.losses.terms import weighted_velocity
from microforge.training.settings import RewardSettings
from microforge.training.stages.edit import EditStage
from microforge.training.stages.flow_network import (
    FlowBatch,
    on_device,
    predict,
    sample_noise,
    without_padding,
)
from microforge.training.stages.judged_samples import JudgedSamples, advantages, judged_prompts
from microforge.training.stages.oracle_feedback import OracleFeedbackStage


class RewardStage(OracleFeedbackStage):
    """An ``EditStage`` with judged samples beside its own batch; ``prepare`` provides them."""

    name = "reward"

    def __init__(
        self, edit: EditStage, settings: RewardSettings, init: Checkpoint, generator: Checkpoint
    ) -> None:
        """As the base class; ``init`` is the reference that the advantages move away from."""
        super().__init__(edit, settings, init, generator)
        self.settings = settings
        self.samples = JudgedSamples(torch.empty(0), torch.empty(0), torch.empty(0))
        self.advantage = torch.empty(0)  # (G, K)

    def prepare(self, folder: Path, console: Console, processes: Processes) -> None:
        """Generate and judge the samples that ``folder`` does not hold yet, all processes together.

        Raises:
            DataError: when no prompt has both correct and incorrect samples.
        """
        settings = self.settings
        prompts = judged_prompts(settings.judged_samples // settings.samples_per_prompt, self.context.seed)
        samples = self.judged(prompts, settings, folder, console, processes)
        self.samples = samples.informative()
        self.advantage = advantages(self.samples.correct)
        if processes.is_main:
            console.print(
                f"judged samples: {int(samples.correct.sum()):,} of {samples.correct.numel():,} are correct; "
                f"{len(self.samples.ids):,} of {len(samples.ids):,} prompts have correct and incorrect ones",
                highlight=False,
            )

    def loss(self, step: int, shard: BatchShard = WHOLE) -> Mapping[str, Tensor]:
        """The edit stage's terms; ``reward``, and ``reward_gain``: how much it is below that of the reference."""
        terms = self.edit.loss(step, shard)
        batch, advantage = self.make_batch(step, shard)
        with torch.no_grad():
            reference = predict(self.reference, batch)[0].float()
        velocity, _ = predict(self.network, batch)
        scale = advantage.reshape(-1, 1, 1, 1)
        target = reference + scale * (velocity_target(batch.z0, batch.noise) - reference)
        weight = loss_weight(batch.t)
        reward = weighted_velocity(velocity, target, weight)
        gain = weighted_velocity(reference, target, weight) - reward.detach()
        loss = terms["loss"] + self.settings.reward * reward
        return {**terms, "loss": loss, "reward": reward, "reward_gain": gain}

    def make_batch(self, step: int, shard: BatchShard) -> tuple[FlowBatch, Tensor]:
        """Rows ``shard`` of the judged samples of step ``step`` with new noise, and their advantages (S,)."""
        settings, device, seed = self.settings, self.context.device, self.context.seed
        prompts, each = settings.judged_captions, settings.noise_samples
        rng = step_rng(seed, StepStream.REWARD_ROWS + step)
        total, group = self.samples.correct.shape
        rows = torch.from_numpy(rng.integers(0, total, prompts))
        members = torch.from_numpy(rng.permuted([range(group)] * prompts, axis=1)[:, :each])  # (B, each)
        z0 = on_device(self.samples.latents[rows[:, None], members].flatten(0, 1).float(), device)
        generator = step_generator(seed, TensorStream.REWARD_NOISE + step, device)
        noise, t, has_plan = sample_noise(
            z0.shape, settings.judged_time_shift, settings.self_condition, generator
        )
        advantage = on_device(self.advantage[rows[:, None], members].flatten(), device)
        captions, samples = shard.rows(prompts), shard.rows(prompts * each)
        ids = without_padding(self.samples.ids[rows].long(), self.context.length_step)[captions]
        batch = FlowBatch(
            on_device(ids, device), z0[samples], noise[samples], t[samples], has_plan[samples], each
        )
        return batch, advantage[samples]
