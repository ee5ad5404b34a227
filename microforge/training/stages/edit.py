"""Stage 5: edit, inpaint and super-resolve beside generate, with the same weights (SPEC section 6).

The clean source latent stands to the right of z_t (DreamLite, arXiv 2603.28713) and the loss is on the left
half, so nothing is added to the network. Rows that generate run on their N tokens alone, in a forward pass of
their own: that layout stays trained, and its loss is logged apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from microforge.checkpoint import Checkpoint
from microforge.data.edit_examples import SOURCE_TASKS, Triples, TripleSource, downsampled
from microforge.data.pixels import to_uint8
from microforge.pipeline import MicroForgePipeline
from microforge.streams import FixedSeed, StepStream
from microforge.text_encoder import PAD_ID
from microforge.training.caches.encoded_triples import (
    EncodedTriples,
    Encoding,
    latents_of,
    load_or_encode,
    words_of,
)
from microforge.training.engine.batch_shard import WHOLE, Shard
from microforge.training.engine.loop import WithoutAdversary
from microforge.training.engine.plots import grid
from microforge.training.engine.prefetch import made_ahead
from microforge.training.engine.state import step_rng
from microforge.training.settings import EditSettings
from microforge.training.stages.flow import (
    LENGTH_STEP,
    FlowBatch,
    FlowStage,
    flow_terms,
    frozen_network,
    on_device,
    predict,
    without_padding,
)

#: Examples of each task with a source on a sample sheet, and prompts of generate.
SHEET_EACH, SHEET_PROMPTS = 2, 6
#: Sources and targets as bytes (B, 3, H, W), and a text of None for no text.
Sourced = tuple[Tensor, Tensor, Sequence[str | None]]
#: Latents of sources and targets (B, C, h, w), and token ids (B, L).
Encoded = tuple[Tensor, Tensor, Tensor]


class EditStage(WithoutAdversary):
    """A ``FlowStage`` some of whose rows are of the tasks with a source."""

    def __init__(
        self, flow: FlowStage, settings: EditSettings, triples: TripleSource, init: Checkpoint,
        cache: Path, console: Console, kept: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        """Encode examples with a source, once, where the settings ask for it.

        Args:
            flow: made with ``settings`` and the weights of ``init``.
            cache: file of the encoded examples.
            kept: whose velocity the rows that generate learn instead of the data's; it has passed ``check_teacher``.
        """
        self.flow, self.settings, self.triples, self.stages = flow, settings, triples, init.stages
        self.samples_per_step = flow.samples_per_step
        make = partial(_sourced, triples, settings, flow.loop.seed, flow.size)
        self.sources = made_ahead(make, triples, flow.loop)
        self.kept = None if kept is None else frozen_network(kept, flow.loop)
        self.pool: Mapping[str, EncodedTriples] = {}
        if settings.triples:
            length = flow.spec.text_encoder.max_length
            encoding = Encoding(flow.vae, flow.tokenizer, length, flow.size, flow.loop)
            self.pool = load_or_encode(cache, triples, settings, encoding, console)

    @property
    def network(self) -> nn.Module:
        return self.flow.network

    def loss(self, step: int, shard: Shard = WHOLE) -> Mapping[str, Tensor]:
        """The flow's terms over all tasks, and the velocity matching of each task under its name.

        A task's term is divided by the rows it is expected to have, so that the mean over the pieces of a
        batch is the term of the whole batch; at a step without one of its rows it is 0.
        """
        parts, shares = self.draw(step, shard), self.settings.shares
        names = [name.replace("-", "_") for name, share in shares.items() if share > 0.0]
        zero = torch.zeros((), device=self.flow.loop.device)
        terms = dict.fromkeys(("loss", "flow", "plan_similarity", *names), zero)
        for group in (("generate",), SOURCE_TASKS):
            present = {task: parts[task] for task in group if task in parts}
            if not present:
                continue
            batch = joined(list(present.values()), self.flow.length_step)
            velocity, plan = predict(self.flow.network, batch)
            wanted = self._wanted(batch)
            sizes = [len(part.t) for part in present.values()]
            outputs = zip(torch.split(velocity, sizes), torch.split(plan, sizes), strict=True)
            pieces = zip(present.items(), outputs, strict=True)
            for (task, part), (own_velocity, own_plan) in pieces:
                found = flow_terms(part, own_velocity, own_plan, self.settings.diversity, wanted)
                weight = len(part.t) * shard.count / self.samples_per_step
                for name, value in found.items():
                    terms[name] = terms[name] + weight * value
                name = task.replace("-", "_")
                terms[name] = terms[name] + weight / shares[task] * found["flow"]
        return terms

    @torch.no_grad()
    def _wanted(self, batch: FlowBatch) -> Tensor | None:
        """What rows that generate are to keep, their velocity from before; None for the data's."""
        if self.kept is None or batch.source is not None:
            return None
        return predict(self.kept, batch)[0].float()

    def draw(self, step: int, shard: Shard) -> dict[str, FlowBatch]:
        """The rows ``shard`` of the batch of step ``step``, by task; a task without a row is left out.

        Every row has the flow's noise and time; a row with a source has its target and words in the place of
        the cached image and caption. A piece takes every ``count``-th row, so that all have some of each task.
        """
        batch = self.settings.batch
        shard.rows(batch)  # refuses a batch that does not divide
        whole = self.flow.draw(step, WHOLE)
        dropped = step_rng(self.flow.loop.seed, StepStream.TASK_MIX + step).random(batch + 1)[1:]
        rows = task_rows(self.settings, self.flow.loop.seed, step, shard)
        made = self._remembered(step, rows) if self.pool else self._encoded(self.sources(step, shard))
        parts = {}
        for task, (mine, _) in rows.items():
            parts[task] = picked(whole, mine)
            if task in made:
                parts[task] = self._with_source(parts[task], task, made[task], dropped[mine])
        return parts

    def _encoded(self, made: Mapping[str, Sourced]) -> dict[str, Encoded]:
        """New examples of each task, encoded."""
        flow, length = self.flow, self.flow.spec.text_encoder.max_length
        found = {}
        for task, (sources, targets, texts) in made.items():
            source, target = (latents_of(flow.vae, pixels, flow.loop.device) for pixels in (sources, targets))
            found[task] = source, target, words_of(flow.tokenizer, texts, task, length)
        return found

    def _remembered(self, step: int, rows: Mapping[str, tuple[list[int], list[int]]]) -> dict[str, Encoded]:
        """Examples of each task out of those that were encoded before the first step."""
        whole = task_rows(self.settings, self.flow.loop.seed, step, WHOLE)
        device, found = self.flow.loop.device, {}
        rng = step_rng(self.flow.loop.seed, StepStream.ENCODED_TRIPLE_CHOICE + step)
        for task, pool in self.pool.items():
            places = rng.integers(0, len(pool.ids), len(whole[task][0]) if task in whole else 0)
            if task in rows:
                mine = torch.from_numpy(places[rows[task][1]])
                sources, targets = (
                    on_device(part[mine].float(), device) for part in (pool.sources, pool.targets)
                )
                found[task] = sources, targets, pool.ids[mine].long()
        return found

    def _with_source(
        self, part: FlowBatch, task: str, found: Encoded, draws: NDArray[np.float64]
    ) -> FlowBatch:
        """``part`` with the latents and words of ``found``; ``draws`` (B,) in [0, 1) say which row drops what."""
        source, z0, known = found
        settings = self.settings
        no_source = draws < settings.drop_source + settings.drop_both
        no_text = (draws >= settings.drop_source) & (
            draws < settings.drop_source + settings.drop_both + settings.drop_text
        )
        silent = words_of(self.flow.tokenizer, [None], task, known.shape[1])
        ids = on_device(torch.where(torch.from_numpy(no_text)[:, None], silent, known), self.flow.loop.device)
        kept = on_device(torch.from_numpy(~no_source).float(), self.flow.loop.device)
        source = source * kept.reshape(-1, 1, 1, 1)  # without a source it is zero, as guidance has it
        z0, source = (value.repeat_interleave(part.draws, 0) for value in (z0, source))
        return replace(part, ids=ids, z0=z0, source=source)

    def pipeline(self, ema: nn.Module) -> MicroForgePipeline:
        """The reference pipeline around the EMA weights."""
        return self.flow.pipeline(ema)

    def sheet(self, ema: nn.Module) -> Tensor:
        """Prompts drawn; then source, result and target of every task with a source, two a row; guided."""
        pipeline, size = self.flow.pipeline(ema), self.flow.size
        prompts = list(self.flow.source.prompts(SHEET_PROMPTS))
        images = [*pipeline.text2img(prompts, *size)]
        images += [torch.ones_like(images[0])] * (SHEET_PROMPTS - len(images))
        for task in SOURCE_TASKS:
            if self.settings.shares[task] > 0.0:
                found = self.triples.triples(
                    task,
                    FixedSeed.UNSEEN_SCENES,
                    0,
                    SHEET_EACH,
                    range(SHEET_EACH),
                    size,
                    self.flow.loop.device,
                )
                results = drawn(pipeline, task, found)
                for triple in zip(found.sources, results, found.targets, strict=True):
                    images += triple
        return grid(torch.stack(images), 6)

    def write(self, folder: Path, ema: nn.Module) -> None:
        """Write the whole model."""
        stages = (*(name for name in self.stages if name != "edit"), "edit")
        self.flow.write(folder, ema, stages)


def task_rows(
    settings: EditSettings, seed: int, step: int, shard: Shard
) -> dict[str, tuple[list[int], list[int]]]:
    """The tasks that rows of this piece have: those rows of the whole batch, and their places among the task's rows.

    Each task has its share of the whole batch, to less than one row.
    """
    shares, batch = settings.shares, settings.batch
    offset = step_rng(seed, StepStream.TASK_MIX + step).random()
    edges = np.cumsum(list(shares.values()))[:-1]
    found = np.searchsorted(edges, (np.arange(batch) + offset) / batch, side="right")
    rows = {}
    for index in dict.fromkeys(found.tolist()):
        every = np.flatnonzero(found == index)
        places = np.flatnonzero(every % shard.count == shard.index)
        if len(places):
            rows[tuple(shares)[index]] = every[places].tolist(), places.tolist()
    return rows


def _sourced(
    triples: TripleSource, settings: EditSettings, seed: int, size: tuple[int, int], device: str, step: int,
    shard: Shard,
) -> dict[str, Sourced]:  # fmt: skip
    """Sources, targets and texts of this piece of a step, by task."""
    whole = task_rows(settings, seed, step, WHOLE)
    made: dict[str, Sourced] = {}
    for task, (_, places) in task_rows(settings, seed, step, shard).items():
        if task in SOURCE_TASKS:
            found = triples.triples(task, seed, step, len(whole[task][0]), places, size, device)
            made[task] = to_uint8(found.sources), to_uint8(found.targets), found.texts
    return made


def drawn(pipeline: MicroForgePipeline, task: str, found: Triples, seed: int = 0) -> Tensor:
    """What ``pipeline`` makes of ``found``: (B, 3, H, W) in [0, 1]; image i is drawn with seed + i.

    Examples that all have words, or none, and one factor are drawn together; others one by one.
    """
    count = len(found.texts)
    words = [text for text in found.texts if text is not None]
    if count > 1 and (len(words) not in (0, count) or len(set(found.factors)) > 1):
        ones = [drawn(pipeline, task, found[index], seed + index) for index in range(count)]
        return torch.cat(ones)
    prompt = words or None
    if task == "inpaint":
        assert found.masks is not None
        return pipeline.inpaint(found.targets, found.masks, prompt, seed=seed)
    if task == "edit":
        return pipeline.edit(found.sources, prompt, seed=seed, mask=found.masks)
    factor = found.factors[0]
    return pipeline.super_resolve(downsampled(found.targets, factor), factor, prompt, seed=seed)


def picked(batch: FlowBatch, rows: Sequence[int]) -> FlowBatch:
    """The captions ``rows`` of ``batch`` with all their noise draws."""
    captions = on_device(torch.tensor(rows), str(batch.ids.device))
    samples = (captions[:, None] * batch.draws + torch.arange(batch.draws, device=captions.device)).flatten()
    return FlowBatch(
        batch.ids[captions], batch.z0[samples], batch.noise[samples], batch.t[samples], batch.has_plan[samples],
        batch.draws, None if batch.source is None else batch.source[samples],
    )  # fmt: skip


def joined(parts: Sequence[FlowBatch], multiple: int = LENGTH_STEP) -> FlowBatch:
    """``parts``, all with a source or all without, as one batch; its captions cut to about the longest."""
    length = max(part.ids.shape[1] for part in parts)
    ids = torch.cat(
        [nn.functional.pad(part.ids, (0, length - part.ids.shape[1]), value=PAD_ID) for part in parts]
    )  # (B, L)
    sources = [part.source for part in parts if part.source is not None]
    z0, noise, t, has_plan = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("z0", "noise", "t", "has_plan")
    )
    return FlowBatch(
        without_padding(ids, multiple),
        z0,
        noise,
        t,
        has_plan,
        parts[0].draws,
        torch.cat(sources) if sources else None,
    )
