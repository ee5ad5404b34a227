"""Stage rewrite: a trained model reads an ambiguous prompt as its rewritten, explicit form.

A model may follow "a star left of a ring" nine times in ten, and yet draw one of the two twice for "a star and a ring": that
prompt leaves the layout open, and the model does not settle on one. The stage teaches it to treat the ambiguous prompt as
the explicit one, by matching its own velocity on noised samples of the latter::

    w(t) || v(z_t, prompt) - v_ref(z_t, rewritten prompt) ||^2

This is context distillation (arXiv 2209.15189); DALL-E 3 uses longer captions to the same end. No prompt is rewritten on the
device. Prompts that are explicit already, and the empty one, keep the reference velocity.

Letters: M samples, B prompts of a step, S = B * noise samples, L text tokens, C h w latent channels, height and width.
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
from microforge.training.caches.encoder import token_ids
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.distributed import Processes
from microforge.training.engine.state import step_generator, step_rng
from microforge.training.losses.terms import weighted_velocity
from microforge.training.settings import RewriteSettings
from microforge.training.stages.edit import EditStage
from microforge.training.stages.flow_network import (
    FlowBatch,
    on_device,
    predict,
    sample_noise,
    without_padding,
)
from microforge.training.stages.oracle_feedback import OracleFeedbackStage


class RewriteStage(OracleFeedbackStage):
    """An ``EditStage`` with samples of rewritten prompts beside its own batch; ``prepare`` provides them.

    Samples (M, C, h, w) that show the rewritten prompt, and the token ids (M, L) of the prompt and its rewritten form.
    """

    name = "rewrite"

    def __init__(
        self, edit: EditStage, settings: RewriteSettings, init: Checkpoint, generator: Checkpoint
    ) -> None:
        """As the base class; ``init`` is the reference that reads the rewritten prompts."""
        super().__init__(edit, settings, init, generator)
        self.settings = settings
        self.latents, self.prompt_ids, self.rewritten_ids = (torch.empty(0) for _ in range(3))

    def pairs(self) -> list[PromptRewrite]:
        """The prompts with their rewritten forms, a function of the settings and the seed."""
        return sample_rewrites(
            self.settings.judged_samples // self.settings.samples_per_prompt, self.context.seed
        )

    def prepare(self, folder: Path, console: Console, processes: Processes) -> None:
        """Generate and judge the samples that ``folder`` does not hold yet; the correct ones are kept.

        Raises:
            DataError: when no sample is correct.
        """
        pairs = self.pairs()
        samples = self.judged([pair.rewritten for pair in pairs], self.settings, folder, console, processes)
        rows, members = samples.correct.nonzero(as_tuple=True)
        if not len(rows):
            raise DataError(
                f"none of {samples.correct.numel()} samples shows its prompt: there is nothing to learn from"
            )
        length = samples.ids.shape[1]
        texts = [pair.prompt for pair in pairs]
        self.latents = samples.latents[rows, members]
        self.rewritten_ids = samples.ids[rows].long()
        self.prompt_ids = token_ids(self.context.encoder.tokenizer, texts, "generate", length)[rows]
        if processes.is_main:
            rewritten = sum(pair.prompt != pair.rewritten.text for pair in pairs)
            console.print(
                f"samples: {len(rows):,} of {samples.correct.numel():,} show the rewritten prompt; "
                f"{rewritten:,} of {len(pairs):,} prompts are rewritten",
                highlight=False,
            )

    def loss(self, step: int, shard: BatchShard = WHOLE) -> Mapping[str, Tensor]:
        """The edit stage's terms; ``rewrite``: distance to the reference velocity of the rewritten prompts."""
        terms = self.edit.loss(step, shard)
        batch, rewritten_ids = self.make_batch(step, shard)
        with torch.no_grad():
            target = predict(self.reference, replace(batch, ids=rewritten_ids))[0].float()
        velocity, _ = predict(self.network, batch)
        rewrite = weighted_velocity(velocity, target, loss_weight(batch.t))
        return {**terms, "loss": terms["loss"] + self.settings.rewrite * rewrite, "rewrite": rewrite}

    def make_batch(self, step: int, shard: BatchShard) -> tuple[FlowBatch, Tensor]:
        """Rows ``shard`` of the samples of step ``step`` with prompts and new noise, and the rewritten prompts (B, L)."""
        settings, device, seed = self.settings, self.context.device, self.context.seed
        count, each = settings.judged_captions, settings.noise_samples
        rng = step_rng(seed, StepStream.REWRITE_ROWS + step)
        rows = torch.from_numpy(rng.integers(0, len(self.latents), count))
        dropped = torch.from_numpy(rng.random(count) < settings.text_dropout)[:, None]
        captions, samples = shard.rows(count), shard.rows(count * each)
        ids, rewritten_ids = (
            self._cut(torch.where(dropped, self.edit.flow.empty[None], known[rows]))[captions]
            for known in (self.prompt_ids, self.rewritten_ids)
        )
        z0 = on_device(self.latents[rows].float(), device).repeat_interleave(each, 0)  # (S, C, h, w)
        generator = step_generator(seed, TensorStream.REWRITE_NOISE + step, device)
        noise, t, has_plan = sample_noise(
            z0.shape, settings.judged_time_shift, settings.self_condition, generator
        )
        return FlowBatch(ids, z0[samples], noise[samples], t[samples], has_plan[samples], each), rewritten_ids

    def _cut(self, ids: Tensor) -> Tensor:
        """``ids`` (B, L) without common padding, on the run's device."""
        return on_device(without_padding(ids, self.context.length_step), self.context.device)
