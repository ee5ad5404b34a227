"""Stage 6: a finished model learns from which of its own drawings the oracle finds right.

DiffusionNFT (arXiv 2509.16117): a drawing is noised anew, and where its advantage over the caption's other drawings is A,
the velocity is pulled from the one before, ``v_before``, by A times what that missed::

    || v - (v_before + A (v* - v_before)) ||^2,   v* = eps - z0

which is least at ``v_before + E[A (v* - v_before)]``: nearer to what right drawings have in common, further from wrong ones,
and not moved at all where A says nothing. No drawing is differentiated and any sampler may have made it, so a few-step
student of the same model can draw, sixteen times as fast.
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
from microforge.training.engine.batch_shard import WHOLE, Shard
from microforge.training.engine.distributed import Processes
from microforge.training.engine.state import step_generator, step_rng
from microforge.training.losses.terms import weighted_velocity
from microforge.training.settings import RewardSettings
from microforge.training.stages.edit import EditStage
from microforge.training.stages.flow import FlowBatch, noising, on_device, predict, without_padding
from microforge.training.stages.judged_samples import Judged, advantages, judged_prompts, load_or_draw
from microforge.training.stages.oracle_feedback import SelfTaughtStage


class RewardStage(SelfTaughtStage):
    """An ``EditStage`` with judged drawings beside its own batch; ``prepare`` makes them."""

    name = "reward"

    def __init__(self, edit: EditStage, settings: RewardSettings, before: Checkpoint) -> None:
        """``before``: the weights that ``edit`` starts from, which judged drawings pull away from."""
        super().__init__(edit, settings, before)
        self.settings = settings
        self.judged = Judged(torch.empty(0), torch.empty(0), torch.empty(0))
        self.advantage = torch.empty(0)  # (G, K)

    def prepare(self, path: Path, drawer: Checkpoint, console: Console, processes: Processes) -> None:
        """Draw and judge what ``path`` does not hold yet, all processes together.

        Raises:
            DataError: when no caption was drawn both rightly and wrongly.
        """
        settings, loop = self.settings, self.flow.loop
        prompts = judged_prompts(settings.judged // settings.group, loop.seed)
        found = load_or_draw(path, prompts, drawer, settings, loop, self.flow.size, console, processes)
        self.judged = found.telling()
        self.advantage = advantages(self.judged.right)
        if processes.is_main:
            console.print(
                f"judged drawings: {int(found.right.sum()):,} of {found.right.numel():,} are right; "
                f"{len(self.judged.ids):,} of {len(found.ids):,} captions have some right and some wrong",
                highlight=False,
            )

    def loss(self, step: int, shard: Shard = WHOLE) -> Mapping[str, Tensor]:
        """The edit stage's terms; ``reward``, and ``reward_gain``: how much less it is than before this run."""
        terms = self.edit.loss(step, shard)
        batch, advantage = self.draw(step, shard)
        with torch.no_grad():
            before = predict(self.before, batch)[0].float()
        velocity, _ = predict(self.flow.network, batch)
        target = before + advantage.reshape(-1, 1, 1, 1) * (velocity_target(batch.z0, batch.noise) - before)
        weight = loss_weight(batch.t)
        reward = weighted_velocity(velocity, target, weight)
        gain = weighted_velocity(before, target, weight) - reward.detach()
        loss = terms["loss"] + self.settings.reward * reward
        return {**terms, "loss": loss, "reward": reward, "reward_gain": gain}

    def draw(self, step: int, shard: Shard) -> tuple[FlowBatch, Tensor]:
        """Rows ``shard`` of the judged drawings of step ``step`` with new noise, and their advantages (B * draws,)."""
        settings, device = self.settings, self.flow.loop.device
        captions, draws = settings.judged_captions, settings.draws
        rng = step_rng(self.flow.loop.seed, StepStream.REWARD_ROWS + step)
        total, group = self.judged.right.shape
        rows = torch.from_numpy(rng.integers(0, total, captions))
        members = torch.from_numpy(rng.permuted([range(group)] * captions, axis=1)[:, :draws])  # (B, draws)
        generator = step_generator(self.flow.loop.seed, TensorStream.REWARD_NOISE + step, device)
        count = captions * draws
        z0 = on_device(self.judged.latents[rows[:, None], members].flatten(0, 1).float(), device)
        noise, t, has_plan = noising(z0.shape, settings.judged_shift, settings.self_condition, generator)
        advantage = on_device(self.advantage[rows[:, None], members].flatten(), device)
        few, many = shard.rows(captions), shard.rows(count)
        ids = without_padding(self.judged.ids[rows].long(), self.flow.length_step)[few]
        batch = FlowBatch(on_device(ids, device), z0[many], noise[many], t[many], has_plan[many], draws)
        return batch, advantage[many]
