"""Evaluates the tasks with a source: the oracle judges what was drawn, PSNR what was to stay.

As in ``evaluate`` a drawing function is all that is known about a model, so checkpoint, bundle and true targets
go through the same code. Letters: B images, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microforge.data.edit_examples import Triples, downsampled, inpaint_examples, upsampled
from microforge.data.world.captions import caption
from microforge.data.world.edits import OPERATIONS, edited_box, edited_region, sample_edit
from microforge.data.world.masks import grown, sample_mask
from microforge.data.world.renderer import object_mask, render
from microforge.data.world.scenes import Scene, SceneObject, sample_scene
from microforge.errors import DataError
from microforge.evaluation.edit_judge import (
    changed_region,
    completed,
    composited,
    instruction_followed,
    region_psnr,
)
from microforge.evaluation.generation import BATCH, rate, to_uint8_images
from microforge.evaluation.metrics import psnr
from microforge.evaluation.oracle.detector import Detection, detect

#: (examples of one task, seed) -> images (B, 3, H, W) in [0, 1]; image i is drawn with seed + i.
DrawTriples = Callable[[Triples, int], Tensor]
#: A perfect copy has no finite PSNR; it counts as this many dB in a mean.
CAP_DB = 100.0
#: A mask drawn by hand is wider than what changes by about this share of the image's shorter side.
BY_HAND = 0.015
#: How much larger super-resolution is asked to draw.
FACTOR = 4


@dataclass(frozen=True)
class Mark:
    """The verdict on one drawing, and what was found or measured, in words."""

    good: bool
    words: str


#: Told of every batch: the examples, what was drawn for them (B, 3, H, W), and a mark for each.
Watch = Callable[[Triples, Tensor, Sequence[Mark]], None]


def _unwatched(found: Triples, images: Tensor, marks: Sequence[Mark]) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class EditRun:
    """How many examples are drawn, at which (height, width), from which seed; ``watch`` sees them, judged.

    ``masked``: each edit is told where it may draw: what truly changes, widened by ``BY_HAND``.
    """

    count: int
    size: tuple[int, int]
    seed: int = 0
    batch: int = BATCH
    watch: Watch = _unwatched
    masked: bool = False


def evaluate_task(task: str, draw: DrawTriples, run: EditRun) -> dict[str, Any]:
    """Figures of one task; see the function of its name.

    Raises:
        DataError: for a task without a source, or fewer than one example.
    """
    if task not in EVALUATIONS:
        raise DataError(f"unknown task {task!r}; allowed: {', '.join(EVALUATIONS)}")
    if run.count < 1:
        raise DataError(f"{run.count} examples are asked for; allowed: 1 or more")
    return EVALUATIONS[task](draw, run)


def evaluate_edit(draw: DrawTriples, run: EditRun) -> dict[str, Any]:
    """Success of the instruction, overall and by operation; mean PSNR in dB inside and outside what is edited.

    What is edited is, in ``psnr_db``, the pixels that truly change; in ``psnr_db_box``, the boxes around them (SPEC 8). A
    new background is all of the image in a box, which leaves no outside.
    Inside is against the true target, outside against the source, both as drawn and once what did not change
    visibly (``changed_region``), or lies outside the mask, is the source's own again.
    """
    rng = np.random.default_rng(run.seed)
    edits = [sample_edit(rng, name) for name in islice(cycle(OPERATIONS), run.count)]
    followed: list[bool] = []
    levels: dict[str, dict[str, list[Tensor]]] = {"psnr_db": {}, "psnr_db_box": {}}
    for start in range(0, run.count, run.batch):
        group = edits[start : start + run.batch]
        regions = torch.stack([edited_region(one, *run.size) for one in group])
        found = Triples(
            render([one.source for one in group], *run.size), tuple(one.instruction for one in group),
            render([one.target for one in group], *run.size), _by_hand(regions) if run.masked else None,
        )  # fmt: skip
        images = draw(found, run.seed + start).cpu()
        seen = [detect(image) for image in to_uint8_images(images)]
        right = [instruction_followed(one, detection) for one, detection in zip(group, seen, strict=True)]
        followed += right
        run.watch(found, images, [Mark(*pair) for pair in zip(right, map(_in_words, seen), strict=True)])
        boxes = torch.stack([edited_box(one, *run.size) for one in group])
        final = _composited(images, found)
        for kept, where in zip(levels.values(), (regions, boxes), strict=True):
            for name, value in _edit_levels(where, images, final, found).items():
                kept.setdefault(name, []).append(value)
    return {
        "followed": rate(followed),
        "operations": {
            name: rate([ok for ok, one in zip(followed, edits, strict=True) if one.operation == name])
            for name in OPERATIONS
        },
        **{key: {name: _mean_db(values) for name, values in kept.items()} for key, kept in levels.items()},
    }  # fmt: skip


def _by_hand(regions: Tensor) -> Tensor:
    """Masks (B, 1, H, W) a little wider than ``regions``."""
    wider = max(1, round(BY_HAND * min(regions.shape[2:])))
    return torch.stack([grown(region[0], wider)[None] for region in regions])


def _composited(images: Tensor, found: Triples) -> Tensor:
    """``images`` where they changed visibly, or in the mask where there is one, and the sources elsewhere."""
    redrawn = changed_region(images, found.sources) if found.masks is None else found.masks
    return composited(images, found.sources, redrawn)


def _edit_levels(regions: Tensor, images: Tensor, final: Tensor, found: Triples) -> dict[str, Tensor]:
    """PSNR (B,) inside and outside the edited regions (B, 1, H, W), as drawn and as composited, ``final``."""
    return {
        "inside": region_psnr(images, found.targets, regions),
        "outside": region_psnr(images, found.targets, 1.0 - regions),
        "inside_composited": region_psnr(final, found.targets, regions),
        "outside_composited": region_psnr(final, found.targets, 1.0 - regions),
    }


def evaluate_inpaint(draw: DrawTriples, run: EditRun) -> dict[str, Any]:
    """How often the object under a hole is drawn again, and whether all that was kept is bit for bit the source's."""
    rng = np.random.default_rng(run.seed)
    again: list[bool] = []
    kept = True
    for start in range(0, run.count, run.batch):
        count = min(run.batch, run.count - start)
        scenes = [sample_scene(rng, "single" if index % 2 else "two") for index in range(count)]
        texts = tuple(caption(scene, rng) for scene in scenes)
        masks = torch.stack([sample_mask(rng, *run.size, scene=scene, kind="object") for scene in scenes])
        found = inpaint_examples(render(scenes, *run.size), texts, masks)
        images = draw(found, run.seed + start).cpu()
        kept &= torch.equal(composited(found.targets, images, masks), found.targets)
        seen = [detect(image) for image in to_uint8_images(images)]
        right = [
            completed(_hidden(scene, mask[0]), detection)
            for scene, mask, detection in zip(scenes, masks, seen, strict=True)
        ]
        again += right
        run.watch(found, images, [Mark(*pair) for pair in zip(right, map(_in_words, seen), strict=True)])
    return {"completed": rate(again), "kept_bit_for_bit": kept}


def _hidden(scene: Scene, mask: Tensor) -> SceneObject:
    """The object of which ``mask`` (H, W) leaves least to be seen."""
    return min(scene.objects, key=lambda item: float((object_mask(item, *mask.shape) * (1.0 - mask)).sum()))


def evaluate_super_resolve(draw: DrawTriples, run: EditRun) -> dict[str, Any]:
    """Mean PSNR in dB of held-out scenes drawn ``FACTOR`` times larger without words, and of their bicubic upsample."""
    rng = np.random.default_rng(run.seed)
    levels: dict[str, list[Tensor]] = {"model": [], "bicubic": []}
    for start in range(0, run.count, run.batch):
        count = min(run.batch, run.count - start)
        targets = render([sample_scene(rng, held_out=True) for _ in range(count)], *run.size)
        sources = upsampled(downsampled(targets, FACTOR), FACTOR)
        found = Triples(sources, (None,) * count, targets, factors=(FACTOR,) * count)
        images = draw(found, run.seed + start).cpu()
        model, bicubic = psnr(images, targets), psnr(sources, targets)
        levels["model"].append(model)
        levels["bicubic"].append(bicubic)
        pairs = zip(model.tolist(), bicubic.tolist(), strict=True)
        run.watch(found, images, [Mark(a > b, f"{a:.1f} dB, bicubic {b:.1f}") for a, b in pairs])
    means = {name: _mean_db(values) for name, values in levels.items()}
    return {"factor": FACTOR, "psnr_db": means, "gain_db": _difference(means["model"], means["bicubic"])}


def _in_words(detection: Detection) -> str:
    """What the oracle found."""
    objects = ", ".join(f"{one.color} {one.shape}" for one in detection.objects) or "nothing"
    return f"found {objects} on {detection.background}"


def _mean_db(values: list[Tensor]) -> float | None:
    """The mean of PSNRs that exist, each at most ``CAP_DB``; None where none does (an empty region)."""
    flat = torch.cat(values)
    known = flat[~flat.isnan()].clamp(max=CAP_DB)
    return round(float(known.mean()), 4) if len(known) else None


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else round(first - second, 4)


#: Task -> its evaluation.
EVALUATIONS: Mapping[str, Callable[[DrawTriples, EditRun], dict[str, Any]]] = {
    "edit": evaluate_edit, "inpaint": evaluate_inpaint, "super-resolve": evaluate_super_resolve,
}  # fmt: skip
