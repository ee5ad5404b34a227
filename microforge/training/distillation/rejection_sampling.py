"""Rejection sampling: a student learns only from samples that the rule-based detector accepts.

Some samples of a teacher do not show their prompt; a student of all of them learns these mistakes and adds its own. The
oracle judges every sample as ``mf-eval`` judges an image, and a rejected one is replaced by an accepted one of the same kind
of prompt, so that difficult kinds keep their share (as in RAFT, arXiv 2304.06767). An edit or an inpainting is accepted when
the detector finds in it what it finds in the true result. Only the built-in world can be judged.

The verdicts on a cache file are stored beside it.
"""

from __future__ import annotations

import io
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from microforge.data.world.caption_reader import read_caption
from microforge.data.world.captions import Prompt
from microforge.errors import DataError, PromptError
from microforge.evaluation.generation import to_uint8_images
from microforge.evaluation.oracle.detector import DetectedObject, Detection, detect
from microforge.evaluation.oracle.verdict import judge
from microforge.io.atomic import atomic_bytes
from microforge.training.distillation.teacher import FrozenTeacher
from microforge.training.distillation.trajectory_cache import (
    FILE_ROWS,
    TrajectoryBatch,
    TrajectoryDataset,
    cache_file,
    file_count,
    verdicts_file,
)
from microforge.training.engine.distributed import ALONE, Processes

#: The tasks whose samples the oracle can judge.
JUDGED_TASKS = ("generate", "edit", "inpaint")
#: Largest distance of an object from its true place, in shares of the image's side: "to the left" is not more precise.
MAX_DISTANCE = 0.08


def filter_samples(
    teacher: FrozenTeacher,
    datasets: Mapping[str, TrajectoryDataset],
    folder: Path,
    console: Console,
    processes: Processes = ALONE,
) -> dict[str, int]:
    """Replace the rejected trajectories of each task; returns the number of accepted ones.

    Args:
        teacher: Decodes and reads the trajectories.
        datasets: Task, one of ``JUDGED_TASKS``, -> its trajectories.
        folder: The cache that they lie in.
        console: Shows progress and the numbers of accepted samples.
        processes: Share the work.

    Raises:
        DataError: when not one sample of a task is accepted.
    """
    counts = {}
    for task, dataset in datasets.items():
        accepted = _verdicts_of(teacher, task, dataset, folder, console, processes)
        dataset.replacements = replacements(accepted, prompt_kinds(teacher, task, dataset.ids()))
        counts[task] = int(accepted.sum())
        console.print(
            f"rejection sampling: {counts[task]:,} of {dataset.rows:,} samples of {task} are accepted",
            highlight=False,
        )
    return counts


def _verdicts_of(
    teacher: FrozenTeacher,
    task: str,
    dataset: TrajectoryDataset,
    folder: Path,
    console: Console,
    processes: Processes,
) -> NDArray[np.bool_]:
    """(S,) the verdicts on all trajectories; missing ones are computed, each process its part."""
    files = [cache_file(folder, task, number) for number in range(file_count(dataset.rows))]
    missing = [
        (number, file)
        for number, file in enumerate(files)
        if number % processes.count == processes.rank and not verdicts_file(file).is_file()
    ]
    for number, file in track(missing, f"judging {task}", console=console, disable=not processes.is_main):
        trajectories = dataset.take(range(number * FILE_ROWS, (number + 1) * FILE_ROWS))
        _write(verdicts_file(file), verdicts(teacher, task, trajectories))
    processes.wait()
    whole: NDArray[np.bool_] = np.concatenate([np.load(verdicts_file(file)) for file in files])
    return whole[: dataset.rows]


def read_prompts(teacher: FrozenTeacher, ids: Tensor) -> list[Prompt | None]:
    """The facts of the captions with token ids (S, L); None for one that was truncated before it names a shape."""
    return [_read(teacher.tokenizer.decode(row)) for row in ids.tolist()]


def _read(text: str) -> Prompt | None:
    try:
        return read_caption(text)
    except PromptError:
        return None


@torch.no_grad()
def verdicts(teacher: FrozenTeacher, task: str, trajectories: TrajectoryBatch) -> NDArray[np.bool_]:
    """(S,) whether each sample, decoded as a user would see it, shows what it should."""

    def detections(latents: Tensor) -> list[Detection]:
        images = teacher.vae.decode(teacher.vae.denormalize(latents.to(teacher.device)))
        return [detect(image) for image in to_uint8_images(images)]

    samples = detections(trajectories.points[:, -1])
    if task == "generate":
        pairs = zip(read_prompts(teacher, trajectories.ids), samples, strict=True)
        accepted = [prompt is not None and judge(prompt, sample).correct for prompt, sample in pairs]
    else:
        truth, source = detections(trajectories.truth), trajectories.source
        sources = truth if task == "inpaint" or source is None else detections(source)
        accepted = [shows_result(*three) for three in zip(samples, truth, sources, strict=True)]
    return np.array(accepted, dtype=np.bool_)


def shows_result(sample: Detection, truth: Detection, source: Detection) -> bool:
    """Whether a sample has the objects and the background of the true result.

    An object that the source has, by shape and colour, must be at its true place, to ``MAX_DISTANCE``. A new object may be
    anywhere, as the prompt leaves its place open.
    """
    names, old = Counter(map(_name, truth.objects)), set(map(_name, source.objects))
    if Counter(map(_name, sample.objects)) != names or sample.background != truth.background:
        return False
    return all(
        any(
            _name(other) == _name(item) and math.hypot(other.x - item.x, other.y - item.y) <= MAX_DISTANCE
            for other in sample.objects
        )
        for item in truth.objects
        if _name(item) in old
    )


def _name(item: DetectedObject) -> tuple[str, str]:
    return item.shape, item.color


def prompt_kinds(teacher: FrozenTeacher, task: str, ids: Tensor) -> list[Hashable]:
    """The difficulty class of each prompt: for an edit its verb, else ``caption_kind``."""
    if task == "edit":
        return [teacher.tokenizer.decode(row).partition(" ")[0].lower() for row in ids.tolist()]
    return [caption_kind(prompt) for prompt in read_prompts(teacher, ids)]


def caption_kind(prompt: Prompt | None) -> Hashable:
    """The difficulty class of a caption: the objects it names, their number, and whether it states their relation."""
    if prompt is None:
        return None
    return len(prompt.objects), prompt.objects[0].count, prompt.relation is not None


def replacements(accepted: NDArray[np.bool_], kinds: Sequence[Hashable]) -> NDArray[np.int64]:
    """For every row an accepted one: itself, or in turn those of its kind, or of any kind when its own has none.

    Raises:
        DataError: when no row is accepted.
    """
    if not accepted.any():
        raise DataError("none of the teacher's samples shows its caption: train the teacher further")
    by_kind: dict[Hashable, list[int]] = defaultdict(list)
    for row in np.flatnonzero(accepted).tolist():
        by_kind[kinds[row]].append(row)
    every = np.flatnonzero(accepted).tolist()
    rows = np.arange(len(accepted), dtype=np.int64)
    for turn, row in enumerate(np.flatnonzero(~accepted).tolist()):
        choice = by_kind.get(kinds[row], every)
        rows[row] = choice[turn % len(choice)]
    return rows


def _write(path: Path, values: NDArray[np.bool_]) -> None:
    packed = io.BytesIO()
    np.save(packed, values)
    atomic_bytes(path, packed.getvalue(), force=True)
