"""Which of the teacher's drawings show what their words say, so that a student learns from those alone.

A teacher draws some captions wrongly; a student of all its drawings learns its mistakes and adds its own. The oracle
reads each drawing, as ``mf-eval`` reads an image, and one that fails is replaced by one that doesn't, of the same kind
of caption, so that hard kinds keep their share (rejection sampling, as in RAFT, arXiv 2304.06767). An edit, or a filled
hole, is right when the oracle finds in it what it finds in the true result. Only the built-in world can be judged.

A shard's verdicts lie beside it, so that they are made once.
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
from microforge.training.distillation.teacher import Teacher
from microforge.training.distillation.trajectory_cache import (
    CHUNK,
    Drawings,
    Shard,
    shard_path,
    verdicts_path,
)
from microforge.training.engine.distributed import ALONE, Processes

#: The tasks whose drawings the oracle can judge.
JUDGED = ("generate", "edit", "inpaint")
#: How far beside its true place, in shares of the image's side, a thing may lie: "to the left" leaves about so much open.
NEAR = 0.08


def keep_faithful(
    teacher: Teacher, cache: Mapping[str, Drawings], folder: Path, console: Console, processes: Processes = ALONE
) -> dict[str, int]:  # fmt: skip
    """Let other drawings of a task stand in for those that fail; how many do not fail.

    Args:
        cache: task, one of ``JUDGED``, -> its drawings, which lie in ``folder``.

    Raises:
        DataError: when not one drawing of a task shows what its words say.
    """
    kept = {}
    for task, drawings in cache.items():
        faithful = _judged(teacher, task, drawings, folder, console, processes)
        drawings.stand_ins = stand_ins(faithful, kinds(teacher, task, drawings.ids()))
        kept[task] = int(faithful.sum())
        console.print(
            f"faithful: {kept[task]:,} of {drawings.rows:,} drawings of {task} show what they should",
            highlight=False,
        )
    return kept


def _judged(
    teacher: Teacher, task: str, drawings: Drawings, folder: Path, console: Console, processes: Processes
) -> NDArray[np.bool_]:  # fmt: skip
    """(S,) the verdicts of all drawings, those that are missing made first; each process judges its part."""
    paths = [shard_path(folder, task, number) for number in range(-(-drawings.rows // CHUNK))]
    missing = [
        (number, path)
        for number, path in enumerate(paths)
        if number % processes.count == processes.rank and not verdicts_path(path).is_file()
    ]
    for number, path in track(missing, f"judging {task}", console=console, disable=not processes.is_main):
        shard = drawings.take(range(number * CHUNK, (number + 1) * CHUNK))
        _write(verdicts_path(path), verdicts(teacher, task, shard))
    processes.wait()
    whole: NDArray[np.bool_] = np.concatenate([np.load(verdicts_path(path)) for path in paths])
    return whole[: drawings.rows]


def facts(teacher: Teacher, ids: Tensor) -> list[Prompt | None]:
    """What the captions with the token ``ids`` (S, L) say; None for one that was cut before it names a shape."""
    return [_read(teacher.tokenizer.decode(row)) for row in ids.tolist()]


def _read(text: str) -> Prompt | None:
    try:
        return read_caption(text)
    except PromptError:
        return None


@torch.no_grad()
def verdicts(teacher: Teacher, task: str, shard: Shard) -> NDArray[np.bool_]:
    """(S,) whether each drawing shows what it was to show, after the VAE's decoder, as a user would see it."""

    def seen(latents: Tensor) -> list[Detection]:
        images = teacher.vae.decode(teacher.vae.denormalize(latents.to(teacher.device)))
        return [detect(image) for image in to_uint8_images(images)]

    drawn = seen(shard.points[:, -1])
    if task == "generate":
        pairs = zip(facts(teacher, shard.ids), drawn, strict=True)
        found = [prompt is not None and judge(prompt, one).correct for prompt, one in pairs]
    else:
        wanted = seen(shard.truth)
        before = wanted if task == "inpaint" or shard.source is None else seen(shard.source)
        found = [agrees(*three) for three in zip(drawn, wanted, before, strict=True)]
    return np.array(found, dtype=np.bool_)


def agrees(drawn: Detection, wanted: Detection, before: Detection) -> bool:
    """Whether a drawing has the objects and the background of the true result.

    What was there ``before``, by shape and colour, has one place to be: that of the true result, to ``NEAR``. What is
    new may be anywhere, as words leave it open.
    """
    names, old = Counter(map(_name, wanted.objects)), set(map(_name, before.objects))
    if Counter(map(_name, drawn.objects)) != names or drawn.background != wanted.background:
        return False
    return all(
        any(
            _name(one) == _name(item) and math.hypot(one.x - item.x, one.y - item.y) <= NEAR
            for one in drawn.objects
        )
        for item in wanted.objects
        if _name(item) in old
    )


def _name(one: DetectedObject) -> tuple[str, str]:
    return one.shape, one.color


def kinds(teacher: Teacher, task: str, ids: Tensor) -> list[Hashable]:
    """What makes a drawing hard: for an edit its verb, elsewhere what ``kind`` says of the caption."""
    if task == "edit":
        return [teacher.tokenizer.decode(row).partition(" ")[0].lower() for row in ids.tolist()]
    return [kind(prompt) for prompt in facts(teacher, ids)]


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
