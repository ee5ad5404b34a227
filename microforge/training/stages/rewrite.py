"""Stage 7: a finished model reads a vague prompt as a clear one.

Told "a star left of a ring" a model may draw both nine times in ten, and told "a star and a ring" draw one of
them twice as often as not: either may go in either place, and the places do not agree. What it knows about the clear
prompt it learns for the vague one, from its own velocity on noised drawings of the clear one::

    w(t) || v(z_t, asked) - v_before(z_t, meant) ||^2

Distilled prompts (context distillation, arXiv 2209.15189), as captions that say more are for image models (DALL-E 3):
no rewriting is left for the device. Prompts that are clear already, and the empty one, keep what they meant before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from microforge.checkpoint import Checkpoint
from microforge.data.world.explicit_prompts import PromptRewrite, sample_rewrites
from microforge.errors import DataError
from microforge.sampling import loss_weight
from microforge.streams import StepStream, TensorStream
from microforge.training.engine.batch_shard import WHOLE, Shard
from microforge.training.engine.distributed import Processes
from microforge.training.engine.state import step_generator, step_rng
from microforge.training.losses.terms import weighted_velocity
from microforge.training.settings import RewriteSettings
from microforge.training.stages.edit import EditStage
from microforge.training.stages.flow import FlowBatch, noising, on_device, predict, without_padding
from microforge.training.stages.judged_samples import load_or_draw, prompt_ids
from microforge.training.stages.oracle_feedback import SelfTaughtStage


class RewriteStage(SelfTaughtStage):
    """An ``EditStage`` with drawings of rewritten prompts beside its own batch; ``prepare`` makes them.

    Drawings (M, C, h, w) that show what was meant, and the token ids (M, L) of what was asked and meant.
    """

    name = "rewrite"

    def __init__(self, edit: EditStage, settings: RewriteSettings, before: Checkpoint) -> None:
        """``before``: the weights that ``edit`` starts from, which read the clear prompts."""
        super().__init__(edit, settings, before)
        self.settings = settings
        self.latents, self.asked, self.meant = torch.empty(0), torch.empty(0), torch.empty(0)

    def pairs(self) -> list[PromptRewrite]:
        """The prompts whose clear readings are drawn, the same again for the same settings."""
        return sample_rewrites(self.settings.judged // self.settings.group, self.flow.loop.seed)

    def prepare(self, path: Path, drawer: Checkpoint, console: Console, processes: Processes) -> None:
        """Draw the clear prompts that ``path`` does not hold yet, all processes together, and keep what shows them.

        Raises:
            DataError: when no drawing does.
        """
        settings, loop = self.settings, self.flow.loop
        pairs = self.pairs()
        meant = [pair.rewritten for pair in pairs]
        found = load_or_draw(path, meant, drawer, settings, loop, self.flow.size, console, processes)
        rows, members = found.right.nonzero(as_tuple=True)
        if not len(rows):
            raise DataError(
                f"of {found.right.numel()} drawings not one shows its prompt: nothing to teach from"
            )
        length = found.ids.shape[1]
        asked = prompt_ids(self.flow.tokenizer, [pair.prompt for pair in pairs], length)
        self.latents = found.latents[rows, members]
        self.meant, self.asked = found.ids[rows].long(), asked[rows]
        if processes.is_main:
            vague = sum(pair.prompt != pair.rewritten.text for pair in pairs)
            console.print(
                f"drawings: {len(rows):,} of {found.right.numel():,} show what was meant; "
                f"{vague:,} of {len(pairs):,} prompts are rewritten", highlight=False,
            )  # fmt: skip

    def loss(self, step: int, shard: Shard = WHOLE) -> Mapping[str, Tensor]:
        """The edit stage's terms; ``rewrite``: how far the prompts are from what was meant by them before this run."""
        terms = self.edit.loss(step, shard)
        batch, meant = self.draw(step, shard)
        with torch.no_grad():
            wanted = predict(self.before, replace(batch, ids=meant))[0].float()
        velocity, _ = predict(self.flow.network, batch)
        rewrite = weighted_velocity(velocity, wanted, loss_weight(batch.t))
        return {**terms, "loss": terms["loss"] + self.settings.rewrite * rewrite, "rewrite": rewrite}

    def draw(self, step: int, shard: Shard) -> tuple[FlowBatch, Tensor]:
        """Rows ``shard`` of step ``step``'s drawings with what was asked and new noise, and what was meant (B, L)."""
        settings, device = self.settings, self.flow.loop.device
        count, draws = settings.judged_captions, settings.draws
        rng = step_rng(self.flow.loop.seed, StepStream.REWRITE_ROWS + step)
        rows = torch.from_numpy(rng.integers(0, len(self.latents), count))
        empty = torch.from_numpy(rng.random(count) < settings.text_dropout)[:, None]
        few, many = shard.rows(count), shard.rows(count * draws)
        asked, meant = (
            self._words(torch.where(empty, self.flow.empty[None], ids[rows]))[few]
            for ids in (self.asked, self.meant)
        )
        z0 = on_device(self.latents[rows].float(), device).repeat_interleave(draws, 0)  # (B * draws, C, h, w)
        generator = step_generator(self.flow.loop.seed, TensorStream.REWRITE_NOISE + step, device)
        noise, t, has_plan = noising(z0.shape, settings.judged_shift, settings.self_condition, generator)
        return FlowBatch(asked, z0[many], noise[many], t[many], has_plan[many], draws), meant

    def _words(self, ids: Tensor) -> Tensor:
        """``ids`` (B, L) without what all of them pad, on the run's device."""
        return on_device(without_padding(ids, self.flow.length_step), self.flow.loop.device)
