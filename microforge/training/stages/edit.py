"""Stage 5: edit, inpaint and super-resolve together with generate, with the same weights (SPEC section 6).

The clean source latent stands to the right of the noisy one (DreamLite, arXiv 2603.28713) and the loss is taken on the left
half, so the network gets no new parameters. Rows that generate have no right half and run in a forward pass of their own, so
that this layout stays trained; their loss is logged separately.

Letters: B examples, S = B * noise samples per example, L text tokens, C h w latent channels, height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from microforge.checkpoint import Checkpoint
from microforge.data.edit_examples import SOURCE_TASKS, TripleSource
from microforge.data.pixels import to_uint8
from microforge.streams import FixedSeed, StepStream
from microforge.training.caches.encoded_triples import EncodedTriples, load_or_encode
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.loop import StageDefaults
from microforge.training.engine.plots import grid
from microforge.training.engine.prefetch import prefetched
from microforge.training.engine.state import step_rng
from microforge.training.settings import EditSettings
from microforge.training.stages.edit_batches import TaskRows, concatenated, select_captions, task_rows
from microforge.training.stages.example_images import generate_examples
from microforge.training.stages.flow import SHEET_COLUMNS, FlowStage
from microforge.training.stages.flow_network import (
    FlowBatch,
    flow_terms,
    frozen_network,
    on_device,
    predict,
)

#: Examples of each task with a source on a sample sheet, and prompts of generate.
SHEET_EXAMPLES, SHEET_PROMPTS = 2, 6
#: Sources and targets as uint8 (B, 3, H, W), and prompts; None stands for the empty prompt.
PixelExamples = tuple[Tensor, Tensor, Sequence[str | None]]
#: Latents of sources and targets (B, C, h, w), and token ids (B, L).
LatentExamples = tuple[Tensor, Tensor, Tensor]


class EditStage(StageDefaults):
    """A ``FlowStage`` some of whose rows belong to the tasks with a source."""

    def __init__(
        self,
        flow: FlowStage,
        settings: EditSettings,
        triples: TripleSource,
        init: Checkpoint,
        cache: Path,
        console: Console,
        reference: Checkpoint | None = None,
    ) -> None:
        """Encode examples with a source, once, if the settings ask for it.

        Args:
            flow: The stage that provides captions, noise and the network; it starts from the weights of ``init``.
            settings: The settings that ``flow`` was built with.
            triples: Examples with a source.
            init: The starting weights.
            cache: File of the encoded examples.
            console: Shows the progress of encoding.
            reference: Checkpoint whose velocity the rows that generate learn instead of the data's; ``check_teacher`` has
                accepted it.
        """
        self.flow, self.settings, self.triples, self.stages = flow, settings, triples, init.stages
        self.context = flow.context
        self.data_sources = (triples, *flow.data_sources)
        self.samples_per_step = flow.samples_per_step
        prepare = partial(_examples, triples, settings, self.context.seed, self.context.size)
        self.examples = prefetched(prepare, triples, self.context.loop)
        self.reference = None if reference is None else frozen_network(reference, self.context.loop)
        self.encoded: Mapping[str, EncodedTriples] = {}
        if settings.triples:
            encoder, seed = self.context.encoder, self.context.seed
            self.encoded = load_or_encode(cache, triples, settings, encoder, seed, console)

    @property
    def network(self) -> nn.Module:
        """The flow's network."""
        return self.flow.network

    def loss(self, step: int, shard: BatchShard = WHOLE) -> Mapping[str, Tensor]:
        """The flow's terms over all tasks, and the velocity matching of each task under its name.

        The term of a task is divided by the expected number of its rows, so that the mean over the pieces of a batch is the
        term of the whole batch. It is 0 at a step without such a row.
        """
        parts, shares = self.make_batches(step, shard), self.settings.shares
        names = [name.replace("-", "_") for name, share in shares.items() if share > 0.0]
        zero = torch.zeros((), device=self.context.device)
        terms = dict.fromkeys(("loss", "flow", "plan_similarity", *names), zero)
        for layout in (("generate",), SOURCE_TASKS):
            present = {task: parts[task] for task in layout if task in parts}
            if not present:
                continue
            batch = concatenated(list(present.values()), self.context.length_step)
            velocity, plan = predict(self.flow.network, batch)
            target = self._reference_velocity(batch)
            sizes = [len(part.t) for part in present.values()]
            outputs = zip(torch.split(velocity, sizes), torch.split(plan, sizes), strict=True)
            for (task, part), (task_velocity, task_plan) in zip(present.items(), outputs, strict=True):
                values = flow_terms(part, task_velocity, task_plan, self.settings.diversity, target)
                weight = len(part.t) * shard.count / self.samples_per_step
                for name, value in values.items():
                    terms[name] = terms[name] + weight * value
                name = task.replace("-", "_")
                terms[name] = terms[name] + weight / shares[task] * values["flow"]
        return terms

    @torch.no_grad()
    def _reference_velocity(self, batch: FlowBatch) -> Tensor | None:
        """The velocity that rows which generate preserve; None for the data's."""
        if self.reference is None or batch.source is not None:
            return None
        return predict(self.reference, batch)[0].float()

    def make_batches(self, step: int, shard: BatchShard) -> dict[str, FlowBatch]:
        """The rows ``shard`` of the batch of step ``step``, by task; a task without a row is left out.

        Every row has the flow's noise and time. A row with a source has its target and prompt instead of the cached image
        and caption.
        """
        batch = self.settings.batch
        shard.rows(batch)  # refuses a batch that does not divide
        whole = self.flow.make_batch(step, WHOLE)
        # the first number of this stream is the offset of ``task_rows``
        lots = step_rng(self.context.seed, StepStream.TASK_MIX + step).random(batch + 1)[1:]
        rows = task_rows(self.settings, self.context.seed, step, shard)
        examples = self._encoded(step, rows) if self.encoded else self._encode(self.examples(step, shard))
        parts = {}
        for task, piece in rows.items():
            parts[task] = select_captions(whole, piece.rows)
            if task in examples:
                lot = torch.from_numpy(lots[piece.rows])  # (B,)
                parts[task] = self._with_source(parts[task], task, examples[task], lot)
        return parts

    def _encode(self, examples: Mapping[str, PixelExamples]) -> dict[str, LatentExamples]:
        """New examples of each task, encoded."""
        encoder, encoded = self.context.encoder, {}
        for task, (sources, targets, texts) in examples.items():
            encoded[task] = encoder.latents(sources), encoder.latents(targets), encoder.ids(texts, task)
        return encoded

    def _encoded(self, step: int, rows: Mapping[str, TaskRows]) -> dict[str, LatentExamples]:
        """Examples of each task from those that were encoded before the first step."""
        whole = task_rows(self.settings, self.context.seed, step, WHOLE)
        rng = step_rng(self.context.seed, StepStream.ENCODED_TRIPLE_CHOICE + step)
        device, chosen = self.context.device, {}
        for task, cache in self.encoded.items():
            numbers = rng.integers(0, len(cache.ids), len(whole[task].places) if task in whole else 0)
            if task in rows:
                piece = torch.from_numpy(numbers[rows[task].places])
                sources, targets = (
                    on_device(part[piece].float(), device) for part in (cache.sources, cache.targets)
                )
                chosen[task] = sources, targets, cache.ids[piece].long()
        return chosen

    def _with_source(self, part: FlowBatch, task: str, examples: LatentExamples, lots: Tensor) -> FlowBatch:
        """``part`` with sources, targets and prompts; ``lots`` (B,) in [0, 1] decide which rows drop what."""
        source, z0, ids = examples
        settings, device = self.settings, self.context.device
        no_source = lots < settings.drop_source + settings.drop_both
        no_text = (lots >= settings.drop_source) & (
            lots < settings.drop_source + settings.drop_both + settings.drop_text
        )
        empty = self.context.encoder.ids([None], task)  # (1, L)
        ids = on_device(torch.where(no_text[:, None], empty, ids), device)
        has_source = on_device((~no_source).float(), device)
        source = source * has_source.reshape(-1, 1, 1, 1)  # zero without a source, as guidance has it
        z0, source = (value.repeat_interleave(part.noise_samples, 0) for value in (z0, source))
        return replace(part, ids=ids, z0=z0, source=source)

    def sheet(self, ema: nn.Module) -> Tensor:
        """Samples of prompts; then source, result and target of every task with a source, two triples a row."""
        pipeline, size = self.context.pipeline(ema), self.context.size
        prompts = list(self.flow.source.prompts(SHEET_PROMPTS))
        images = [*pipeline.text2img(prompts, *size)]
        images += [torch.ones_like(images[0])] * (SHEET_PROMPTS - len(images))
        for task in SOURCE_TASKS:
            if self.settings.shares[task] > 0.0:
                numbers = range(SHEET_EXAMPLES)
                examples = self.triples.triples(
                    task,
                    FixedSeed.UNSEEN_SCENES,
                    0,
                    SHEET_EXAMPLES,
                    numbers,
                    size,
                    self.context.device,
                )
                results = generate_examples(pipeline, task, examples)
                for triple in zip(examples.sources, results, examples.targets, strict=True):
                    images += triple
        return grid(torch.stack(images), SHEET_COLUMNS)

    def write(self, folder: Path, ema: nn.Module) -> None:
        """Write a checkpoint of the whole model."""
        stages = (*(name for name in self.stages if name != "edit"), "edit")
        self.context.write(folder, ema, stages)


def _examples(
    triples: TripleSource,
    settings: EditSettings,
    seed: int,
    size: tuple[int, int],
    device: str,
    step: int,
    shard: BatchShard,
) -> dict[str, PixelExamples]:
    """Sources, targets and prompts of this piece of a step, by task."""
    whole = task_rows(settings, seed, step, WHOLE)
    pixels: dict[str, PixelExamples] = {}
    for task, piece in task_rows(settings, seed, step, shard).items():
        if task in SOURCE_TASKS:
            count = len(whole[task].places)
            examples = triples.triples(task, seed, step, count, piece.places, size, device)
            pixels[task] = to_uint8(examples.sources), to_uint8(examples.targets), examples.texts
    return pixels
