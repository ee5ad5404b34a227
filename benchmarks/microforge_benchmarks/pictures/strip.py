"""Before and after, side by side: what a model does with fixed sources of the built-in world."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from microforge.data.edit_examples import SOURCE_TASKS, Triples, downsampled, inpaint_examples, upsampled
from microforge.data.world.captions import caption
from microforge.data.world.edits import OPERATIONS, sample_edit
from microforge.data.world.masks import sample_mask
from microforge.data.world.renderer import render
from microforge.data.world.scenes import sample_scene
from microforge.errors import BundleError, SpecError
from microforge.evaluation.contact_sheet import wrapped
from microforge.evaluation.generation import to_uint8_images
from microforge.streams import FixedSeed
from microforge_benchmarks.evaluate.subjects import Settings, open_subject

#: Fixed before any of them was drawn; not picked.
COUNT, GAP, ARROW, CAPTION, FONT, FACTOR = 6, 12, 22, 48, 13, 4


def strip(model: Path, task: str) -> Image.Image:
    """``COUNT`` sources above what ``model`` (a bundle or a checkpoint) makes of them, words below.

    Raises:
        SpecError: for a task without a source. BundleError: for a model without this task.
    """
    if task not in SOURCE_TASKS:
        raise SpecError(f"--task is {task!r}; allowed: generate, {', '.join(SOURCE_TASKS)}")
    subject = open_subject(model, Settings())
    if task not in subject.tasks or subject.draw_triples is None:
        raise BundleError(f"{model} cannot {task}; its tasks: {', '.join(subject.tasks)}")
    found = examples(task, (subject.height, subject.width))
    results = subject.draw_triples(task, found, FixedSeed.EDIT_STRIP)
    words = [text or f"{FACTOR} times larger" for text in found.texts]
    return _picture(found.sources, results, words)


def examples(task: str, size: tuple[int, int]) -> Triples:
    """The fixed examples of ``task`` at ``size`` (height, width): edits are one of every operation."""
    rng = np.random.default_rng([FixedSeed.EDIT_STRIP, SOURCE_TASKS.index(task)])
    if task == "edit":
        edits = [sample_edit(rng, name) for name in islice(cycle(OPERATIONS), COUNT)]
        sources, targets = (
            render([getattr(one, name) for one in edits], *size) for name in ("source", "target")
        )
        return Triples(sources, tuple(one.instruction for one in edits), targets)
    scenes = [sample_scene(rng, "single" if index % 2 else "two") for index in range(COUNT)]
    images = render(scenes, *size)
    if task == "inpaint":
        masks = [sample_mask(rng, *size, scene=scene, kind="object") for scene in scenes]
        return inpaint_examples(images, tuple(caption(scene, rng) for scene in scenes), torch.stack(masks))
    large = upsampled(downsampled(images, FACTOR), FACTOR)
    return Triples(large, (None,) * COUNT, images, factors=(FACTOR,) * COUNT)


def _picture(sources: Tensor, results: Tensor, words: list[str]) -> Image.Image:
    height, width = sources.shape[2:]
    sheet = Image.new("RGB", (COUNT * (width + GAP) + GAP, 2 * height + ARROW + CAPTION + 2 * GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for index, pair in enumerate(zip(to_uint8_images(sources), to_uint8_images(results), strict=True)):
        left = GAP + index * (width + GAP)
        for pixels, top in zip(pair, (GAP, GAP + height + ARROW), strict=True):
            sheet.paste(Image.fromarray(pixels), (left, top))
            pen.rectangle((left - 1, top - 1, left + width, top + height), outline=(210, 210, 210))
        middle, y = left + width // 2, GAP + height + 4
        pen.line((middle, y, middle, y + ARROW - 10), (120, 120, 120), 2)
        pen.polygon([(middle - 5, y + 8), (middle + 5, y + 8), (middle, y + ARROW - 8)], (120, 120, 120))
        lines = "\n".join(wrapped(pen, font, words[index], width)[:3])
        pen.multiline_text((left, GAP + 2 * height + ARROW + 4), lines, (40, 40, 40), font)
    return sheet
