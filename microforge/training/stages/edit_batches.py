"""Batches of several tasks: which rows have which task, and joining and splitting batches.

Letters: B captions, S = B * noise samples per caption, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from microforge.streams import StepStream
from microforge.text_encoder import PAD_ID
from microforge.training.engine.batch_shard import BatchShard
from microforge.training.engine.state import step_rng
from microforge.training.settings import EditSettings
from microforge.training.stages.flow_network import LENGTH_STEP, FlowBatch, on_device, without_padding


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task in a piece of a batch."""

    rows: list[int]  # their places in the whole batch
    places: list[int]  # their places among the task's rows of the whole batch


def task_rows(settings: EditSettings, seed: int, step: int, shard: BatchShard) -> dict[str, TaskRows]:
    """Task -> its rows in this piece of step ``step``; a task without a row is left out.

    Each task has its share of the whole batch, to less than one row. A piece takes every ``count``-th row, so that all
    pieces have some of each task.
    """
    shares, batch = settings.shares, settings.batch
    offset = step_rng(seed, StepStream.TASK_MIX + step).random()
    edges = np.cumsum(list(shares.values()))[:-1]
    tasks = np.searchsorted(edges, (np.arange(batch) + offset) / batch, side="right")
    rows = {}
    for index in dict.fromkeys(tasks.tolist()):
        every = np.flatnonzero(tasks == index)
        places = np.flatnonzero(every % shard.count == shard.index)
        if len(places):
            rows[tuple(shares)[index]] = TaskRows(every[places].tolist(), places.tolist())
    return rows


def select_captions(batch: FlowBatch, rows: Sequence[int]) -> FlowBatch:
    """The captions ``rows`` of a batch with all their noise samples."""
    count = batch.noise_samples
    captions = on_device(torch.tensor(rows), str(batch.ids.device))
    samples = (captions[:, None] * count + torch.arange(count, device=captions.device)).flatten()
    return FlowBatch(
        batch.ids[captions],
        batch.z0[samples],
        batch.noise[samples],
        batch.t[samples],
        batch.has_plan[samples],
        count,
        None if batch.source is None else batch.source[samples],
    )


def concatenated(parts: Sequence[FlowBatch], multiple: int = LENGTH_STEP) -> FlowBatch:
    """Batches that all have a source, or all have none, as one; captions are cut to about the longest."""
    length = max(part.ids.shape[1] for part in parts)
    padded = [nn.functional.pad(part.ids, (0, length - part.ids.shape[1]), value=PAD_ID) for part in parts]
    sources = [part.source for part in parts if part.source is not None]
    z0, noise, t, has_plan = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("z0", "noise", "t", "has_plan")
    )
    ids = without_padding(torch.cat(padded), multiple)  # (B, L)
    source = torch.cat(sources) if sources else None
    return FlowBatch(ids, z0, noise, t, has_plan, parts[0].noise_samples, source)
