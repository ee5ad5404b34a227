"""Builds the trajectory cache: examples of the data, sampled by the teacher or by per-task teachers.

Letters: B examples of a file, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from microforge.data.edit_examples import SOURCE_TASKS, Triples, TripleSource
from microforge.data.image_source import ImageSource
from microforge.data.order import PART
from microforge.data.world.image_source import SCENES
from microforge.errors import CheckpointError, DataError
from microforge.training.distillation.teacher import FrozenTeacher, TrajectoryPlan
from microforge.training.distillation.trajectory_cache import (
    FILE_ROWS,
    CacheIdentity,
    TrajectoryDataset,
    cache_file,
    cache_file_fits,
    file_count,
    open_cache,
    remove_partial_files,
    write_cache_file,
)
from microforge.training.engine.distributed import ALONE, Processes


@dataclass(frozen=True)
class TrajectoryInputs:
    """What trajectories are generated from; ``data`` is the fingerprint of images, captions and edits."""

    teacher: FrozenTeacher
    source: ImageSource
    triples: TripleSource
    plan: TrajectoryPlan
    data: str
    #: Task -> the checkpoint that generates its samples instead of the teacher.
    task_teachers: Mapping[str, FrozenTeacher] = field(default_factory=dict)

    def generator(self, task: str) -> FrozenTeacher:
        """The network that generates the samples of ``task``."""
        return self.task_teachers.get(task, self.teacher)


def build_cache(
    inputs: TrajectoryInputs,
    folder: Path,
    console: Console,
    processes: Processes = ALONE,
    rebuild: bool = False,
) -> dict[str, TrajectoryDataset]:
    """The trajectories of the plan, by task; missing ones are generated, each process its part.

    Args:
        inputs: What trajectories are generated from.
        folder: The cache.
        console: Shows progress.
        processes: Share the work; all get the result.
        rebuild: Replace files that do not match instead of refusing them.

    Raises:
        CheckpointError: when ``folder`` holds trajectories of another teacher or other settings.
        DataError: when not one image can be used.
    """
    plan = inputs.plan
    identities = {task: inputs.generator(task).identity(plan, inputs.data) for task in plan.rows}
    if processes.is_main:
        remove_partial_files(folder)
    missing = {
        task: {
            number
            for number in range(file_count(count))
            if not _usable(cache_file(folder, task, number), identities[task], plan.intervals, rebuild)
        }
        for task, count in plan.rows.items()
    }
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not processes.is_main) as progress:
        for task, numbers in missing.items():
            share = {number for number in numbers if number % processes.count == processes.rank}
            if not share:
                continue
            bar = progress.add_task(f"sampling {task}", total=FILE_ROWS * len(share))
            for number, examples in _examples(inputs, task, share):
                trajectories = inputs.generator(task).generate(examples, task, number, plan)
                write_cache_file(cache_file(folder, task, number), trajectories, identities[task])
                progress.advance(bar, FILE_ROWS)
    processes.wait()
    return open_cache(folder, plan.rows, plan.intervals)


def _usable(path: Path, identity: CacheIdentity, intervals: int, rebuild: bool) -> bool:
    try:
        return cache_file_fits(path, identity, intervals)
    except CheckpointError:
        if not rebuild:
            raise
        return False


def _examples(inputs: TrajectoryInputs, task: str, numbers: set[int]) -> Iterator[tuple[int, Triples]]:
    """The examples of the files ``numbers`` of ``task``, in order."""
    plan, device = inputs.plan, inputs.teacher.device
    if task in SOURCE_TASKS:
        for number in sorted(numbers):
            rows = range(FILE_ROWS)
            yield (
                number,
                inputs.triples.triples(task, plan.seed, number, FILE_ROWS, rows, plan.size, device),
            )
        return
    for number, images, texts in _captioned(inputs.source, plan, min(numbers), max(numbers) + 1, device):
        if number in numbers:
            yield number, Triples(images, texts, images)


def _captioned(
    source: ImageSource, plan: TrajectoryPlan, first: int, end: int, device: str
) -> Iterator[tuple[int, Tensor, tuple[str, ...]]]:
    """Blocks of ``FILE_ROWS`` images up to ``end``, with their numbers; each image has one of its captions.

    A small data set is repeated. In the built-in world every part is full, so it starts with the part of block ``first``;
    the user's images may be broken, so they are counted from the start.
    """
    images: list[Tensor] = []
    texts: list[str] = []
    skipped = first * FILE_ROWS // PART if source.name == SCENES else 0
    number, epoch = skipped * PART // FILE_ROWS, 0
    while number < end:
        count = -(-end * FILE_ROWS // PART) * PART  # whole parts: the same examples whatever ``end`` is
        examples = source.plan(count, 1, plan.seed + epoch)
        usable = 0
        for part in range(skipped if epoch == 0 else 0, examples.parts):
            for batch, captions in source.examples(examples, part, plan.size, device):
                images += list(batch)
                texts += [choices[(epoch + row) % len(choices)] for row, choices in enumerate(captions)]
                usable += len(captions)
                while len(images) >= FILE_ROWS and number < end:
                    yield number, torch.stack(images[:FILE_ROWS]), tuple(texts[:FILE_ROWS])
                    images, texts, number = images[FILE_ROWS:], texts[FILE_ROWS:], number + 1
                if number == end:
                    return
        if not usable:
            raise DataError(f"not one image of {source.name} can be used")
        epoch += 1
