"""Which of the teacher's drawings show what their captions say, so that a student learns from those alone.

A teacher draws some captions wrongly; a student of all its drawings learns its mistakes and adds its own. The oracle
reads each drawing, as ``mf-eval`` reads an image, and one that fails is replaced by one that doesn't, of the same kind
of caption, so that hard kinds keep their share (rejection sampling, as in RAFT, arXiv 2304.06767). Only captions of the
built-in world can be judged.

A shard's verdicts lie beside it, so that they are made once.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from microforge.bundle_files import atomic_bytes
from microforge.data.caption_reader import read_caption
from microforge.data.captions import Prompt
from microforge.errors import DataError, PromptError
from microforge.evaluation.evaluate import to_bytes
from microforge.evaluation.oracle import detect
from microforge.evaluation.verdict import judge
from microforge.training.processes import ALONE, Processes
from microforge_export.teacher import Teacher
from microforge_export.trajectories import CHUNK, Drawings, Shard, shard_path, verdicts_path

#: Of the cache's tasks, the one whose captions the oracle can judge.
JUDGED = "generate"


def keep_faithful(
    teacher: Teacher, drawings: Drawings, folder: Path, console: Console, processes: Processes = ALONE
) -> int:
    """Let other ``drawings`` (of generation) stand in for those that fail; how many do not fail.

    Raises:
        DataError: when not one drawing shows its caption.
    """
    paths = [shard_path(folder, JUDGED, number) for number in range(-(-drawings.rows // CHUNK))]
    missing = [
        (number, path)
        for number, path in enumerate(paths)
        if number % processes.count == processes.rank and not verdicts_path(path).is_file()
    ]
    for number, path in track(missing, "judging drawings", console=console, disable=not processes.is_main):
        shard = drawings.take(range(number * CHUNK, (number + 1) * CHUNK))
        _write(verdicts_path(path), verdicts(teacher, shard))
    processes.wait()
    faithful = np.concatenate([np.load(verdicts_path(path)) for path in paths])[: drawings.rows]
    kinds = [kind(prompt) for prompt in facts(teacher, drawings.ids())]
    drawings.stand_ins = stand_ins(faithful, kinds)
    return int(faithful.sum())


def facts(teacher: Teacher, ids: Tensor) -> list[Prompt | None]:
    """What the captions with the token ``ids`` (S, L) say; None for one that was cut before it names a shape."""
    return [_read(teacher.tokenizer.decode(row)) for row in ids.tolist()]


def _read(text: str) -> Prompt | None:
    try:
        return read_caption(text)
    except PromptError:
        return None


@torch.no_grad()
def verdicts(teacher: Teacher, shard: Shard) -> NDArray[np.bool_]:
    """(S,) whether each drawing shows its caption, after the VAE's decoder, as a user would see it."""
    final = shard.points[:, -1].to(teacher.device)
    images = to_bytes(teacher.vae.decode(teacher.vae.denormalize(final)))
    pairs = zip(facts(teacher, shard.ids), images, strict=True)
    found = [prompt is not None and judge(prompt, detect(image)).correct for prompt, image in pairs]
    return np.array(found, dtype=np.bool_)


def kind(prompt: Prompt | None) -> Hashable:
    """What makes a caption hard: how many objects it names, their number, whether it says how they lie."""
    if prompt is None:
        return None
    return len(prompt.objects), prompt.objects[0].count, prompt.relation is not None


def stand_ins(faithful: NDArray[np.bool_], kinds: Sequence[Hashable]) -> NDArray[np.int64]:
    """For every row a faithful one: itself, or one of its kind in turn; of any kind where its own has none.

    Raises:
        DataError: when no row is faithful.
    """
    if not faithful.any():
        raise DataError("not one of the teacher's drawings shows its caption: train the teacher further")
    good: dict[Hashable, list[int]] = defaultdict(list)
    for row in np.flatnonzero(faithful).tolist():
        good[kinds[row]].append(row)
    every = np.flatnonzero(faithful).tolist()
    rows = np.arange(len(faithful), dtype=np.int64)
    for turn, row in enumerate(np.flatnonzero(~faithful).tolist()):
        choice = good.get(kinds[row], every)
        rows[row] = choice[turn % len(choice)]
    return rows


def _write(path: Path, values: NDArray[np.bool_]) -> None:
    packed = io.BytesIO()
    np.save(packed, values)
    atomic_bytes(path, packed.getvalue(), force=True)
