"""Evaluation of the tasks with a source image: edit, inpaint and super-resolve.

The rule-based detector judges what should appear, and PSNR what should stay. A model is known here only as a
``TaskGenerator``, so checkpoints, bundles and true targets are evaluated by the same code. Letters: B images, H W image
height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from microforge.data.edit_examples import Triples, downsampled, inpaint_examples, upsampled
from microforge.data.world.captions import caption
from microforge.data.world.edits import OPERATIONS, Edit, edited_box, edited_region, sample_edit
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
from microforge.evaluation.generation import BATCH, to_uint8_images
from microforge.evaluation.metrics import psnr
from microforge.evaluation.oracle.detector import Detection, detect
from microforge.evaluation.scores import (
    EditScores,
    InpaintScores,
    RegionPSNR,
    SuperResolveScores,
    TaskScores,
    UpsamplingPSNR,
    accuracy_of,
)

#: (examples of one task, seed) -> images (B, 3, H, W) in [0, 1]; image i is generated with seed + i.
TaskGenerator = Callable[[Triples, int], Tensor]
#: PSNR of a perfect copy in a mean, in dB; the true value is infinite.
MAX_DB = 100.0
#: Margin of a user's mask around the pixels that change, as a share of the shorter side.
MASK_MARGIN = 0.015
#: Scale factor of super-resolution.
FACTOR = 4


@dataclass(frozen=True)
class ExampleVerdict:
    """Whether one result is correct, and what was detected or measured, as text."""

    correct: bool
    text: str


#: Callback after each batch: the examples, the results (B, 3, H, W), and a verdict on each.
BatchObserver = Callable[[Triples, Tensor, Sequence[ExampleVerdict]], None]


def _ignore(examples: Triples, images: Tensor, verdicts: Sequence[ExampleVerdict]) -> None:
    """A ``BatchObserver`` that does nothing."""


@dataclass(frozen=True)
class TaskEvaluation:
    """Settings of an evaluation.

    Attributes:
        count: number of examples.
        size: (height, width) in pixels.
        seed: seed of the examples, and of the first image.
        batch: examples per call of the model.
        on_batch: callback after each batch.
        masked: edit: give the model a mask of the pixels that change, with a margin of ``MASK_MARGIN``.
    """

    count: int
    size: tuple[int, int]
    seed: int = 0
    batch: int = BATCH
    on_batch: BatchObserver = _ignore
    masked: bool = False

    def batches(self) -> Iterator[tuple[int, int]]:
        """Start and number of examples of each batch."""
        for start in range(0, self.count, self.batch):
            yield start, min(self.batch, self.count - start)


def evaluate_task(task: str, generate: TaskGenerator, settings: TaskEvaluation) -> TaskScores:
    """Evaluate one task of ``EVALUATIONS``.

    Raises:
        DataError: when the task has no source image, or fewer than one example is requested.
    """
    if task not in EVALUATIONS:
        raise DataError(f"unknown task {task!r}; allowed: {', '.join(EVALUATIONS)}")
    if settings.count < 1:
        raise DataError(f"the number of examples is {settings.count}; allowed: 1 or more")
    return EVALUATIONS[task](generate, settings)


def evaluate_edit(generate: TaskGenerator, settings: TaskEvaluation) -> EditScores:
    """Evaluate edits: is the instruction followed, and how close are edited and preserved pixels to the true target?

    Operations take turns. The composited results replace pixels outside the mask, or without a mask those outside
    ``changed_region``, by the source image's.
    """
    rng = np.random.default_rng(settings.seed)
    edits = [sample_edit(rng, name) for name in islice(cycle(OPERATIONS), settings.count)]
    followed: list[bool] = []
    pixel_levels, box_levels = _RegionLevels(), _RegionLevels()
    for start, count in settings.batches():
        group = edits[start : start + count]
        regions = torch.stack([edited_region(edit, *settings.size) for edit in group])
        boxes = torch.stack([edited_box(edit, *settings.size) for edit in group])
        examples = _edit_examples(group, regions, settings)
        images = generate(examples, settings.seed + start).cpu()
        verdicts = _verdicts(images, [_follows(edit) for edit in group])
        followed += [verdict.correct for verdict in verdicts]
        settings.on_batch(examples, images, verdicts)
        final = _composite(images, examples)
        pixel_levels.add(regions, images, final, examples.targets)
        box_levels.add(boxes, images, final, examples.targets)
    operations = {
        name: accuracy_of([ok for ok, edit in zip(followed, edits, strict=True) if edit.operation == name])
        for name in OPERATIONS
    }
    return EditScores(accuracy_of(followed), operations, pixel_levels.means(), box_levels.means())


def _edit_examples(edits: Sequence[Edit], regions: Tensor, settings: TaskEvaluation) -> Triples:
    return Triples(
        render([edit.source for edit in edits], *settings.size),
        tuple(edit.instruction for edit in edits),
        render([edit.target for edit in edits], *settings.size),
        _with_margin(regions) if settings.masked else None,
    )


def _follows(edit: Edit) -> Callable[[Detection], bool]:
    return lambda detection: instruction_followed(edit, detection)


def _with_margin(regions: Tensor) -> Tensor:
    """Masks (B, 1, H, W): ``regions`` dilated by ``MASK_MARGIN``."""
    margin = max(1, round(MASK_MARGIN * min(regions.shape[2:])))
    return torch.stack([grown(region[0], margin)[None] for region in regions])


def _composite(images: Tensor, examples: Triples) -> Tensor:
    """``images`` in the mask, or without one in the region that changed visibly, and the sources elsewhere."""
    region = changed_region(images, examples.sources) if examples.masks is None else examples.masks
    return composited(images, examples.sources, region)


@dataclass
class _RegionLevels:
    """PSNR of every example so far, by the field of ``RegionPSNR``."""

    values: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, regions: Tensor, images: Tensor, final: Tensor, targets: Tensor) -> None:
        """Add a batch: ``images`` as generated and ``final`` as composited, with ``regions`` (B, 1, H, W)."""
        levels = {
            "inside": region_psnr(images, targets, regions),
            "outside": region_psnr(images, targets, 1.0 - regions),
            "inside_composited": region_psnr(final, targets, regions),
            "outside_composited": region_psnr(final, targets, 1.0 - regions),
        }
        for name, level in levels.items():
            self.values.setdefault(name, []).append(level)

    def means(self) -> RegionPSNR:
        return RegionPSNR(**{name: _mean_db(levels) for name, levels in self.values.items()})


def evaluate_inpaint(generate: TaskGenerator, settings: TaskEvaluation) -> InpaintScores:
    """Evaluate inpainting: is the masked object generated again, and are all other pixels those of the source?"""
    rng = np.random.default_rng(settings.seed)
    results: list[bool] = []
    preserved = True
    for start, count in settings.batches():
        scenes = [sample_scene(rng, "single" if index % 2 else "two") for index in range(count)]
        texts = tuple(caption(scene, rng) for scene in scenes)
        masks = torch.stack(
            [sample_mask(rng, *settings.size, scene=scene, kind="object") for scene in scenes]
        )
        examples = inpaint_examples(render(scenes, *settings.size), texts, masks)
        images = generate(examples, settings.seed + start).cpu()
        preserved &= torch.equal(composited(examples.targets, images, masks), examples.targets)
        verdicts = _verdicts(images, [_completes(*pair) for pair in zip(scenes, masks, strict=True)])
        results += [verdict.correct for verdict in verdicts]
        settings.on_batch(examples, images, verdicts)
    return InpaintScores(accuracy_of(results), preserved)


def _completes(scene: Scene, mask: Tensor) -> Callable[[Detection], bool]:
    item = _masked_object(scene, mask[0])
    return lambda detection: completed(item, detection)


def _masked_object(scene: Scene, mask: Tensor) -> SceneObject:
    """The object of which ``mask`` (H, W) leaves the fewest pixels visible."""
    return min(scene.objects, key=lambda item: float((object_mask(item, *mask.shape) * (1.0 - mask)).sum()))


def evaluate_super_resolve(generate: TaskGenerator, settings: TaskEvaluation) -> SuperResolveScores:
    """Evaluate super-resolution of held-out scenes by ``FACTOR`` with the empty prompt, against bicubic upsampling."""
    rng = np.random.default_rng(settings.seed)
    model: list[Tensor] = []
    bicubic: list[Tensor] = []
    for start, count in settings.batches():
        targets = render([sample_scene(rng, held_out=True) for _ in range(count)], *settings.size)
        sources = upsampled(downsampled(targets, FACTOR), FACTOR)
        examples = Triples(sources, (None,) * count, targets, factors=(FACTOR,) * count)
        images = generate(examples, settings.seed + start).cpu()
        model.append(psnr(images, targets))
        bicubic.append(psnr(sources, targets))
        pairs = zip(model[-1].tolist(), bicubic[-1].tolist(), strict=True)
        verdicts = [ExampleVerdict(a > b, f"{a:.1f} dB, bicubic {b:.1f}") for a, b in pairs]
        settings.on_batch(examples, images, verdicts)
    means = UpsamplingPSNR(_mean_db(model), _mean_db(bicubic))
    return SuperResolveScores(FACTOR, means, _difference(means.model, means.bicubic))


def _verdicts(images: Tensor, rules: Sequence[Callable[[Detection], bool]]) -> list[ExampleVerdict]:
    """Detect the objects of every image (B, 3, H, W), and apply its rule to them."""
    detections = [detect(image) for image in to_uint8_images(images)]
    return [
        ExampleVerdict(rule(detection), f"found {detection.summary()}")
        for rule, detection in zip(rules, detections, strict=True)
    ]


def _mean_db(levels: Sequence[Tensor]) -> float | None:
    """Mean of the PSNRs that are defined, each clipped to ``MAX_DB``; None where the region is always empty."""
    flat = torch.cat(list(levels))
    defined = flat[~flat.isnan()].clamp(max=MAX_DB)
    return round(float(defined.mean()), 4) if len(defined) else None


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else round(first - second, 4)


#: Task -> its evaluation.
EVALUATIONS: Mapping[str, Callable[[TaskGenerator, TaskEvaluation], TaskScores]] = {
    "edit": evaluate_edit, "inpaint": evaluate_inpaint, "super-resolve": evaluate_super_resolve,
}  # fmt: skip
