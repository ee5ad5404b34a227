"""Pictures of a task with a source image: fixed sources of the built-in world above their results."""

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
from microforge_benchmarks.evaluate.model_under_test import SamplingOptions
from microforge_benchmarks.evaluate.open_model import open_model_under_test

COUNT, GAP, ARROW, CAPTION, FONT, FACTOR = 6, 12, 22, 48, 13, 4


def strip(path: Path, task: str) -> Image.Image:
    """Draw ``COUNT`` sources above the results of a bundle or checkpoint, with the prompts below.

    The examples are fixed and were chosen before any result was seen.

    Raises:
        SpecError: when the task has no source image.
        BundleError: when the model does not have this task.
    """
    if task not in SOURCE_TASKS:
        raise SpecError(f"--task is {task!r}; allowed: generate, {', '.join(SOURCE_TASKS)}")
    model = open_model_under_test(path, SamplingOptions())
    if task not in model.tasks or model.generate_task is None:
        raise BundleError(f"{path} cannot {task}; its tasks: {', '.join(model.tasks)}")
    examples = strip_examples(task, model.size)
    results = model.generate_task(task, examples, FixedSeed.EDIT_STRIP)
    texts = [text or f"{FACTOR} times larger" for text in examples.texts]
    return _draw(examples.sources, results, texts)


def strip_examples(task: str, size: tuple[int, int]) -> Triples:
    """The fixed examples of ``task`` at ``size`` (height, width); edits have one of every operation."""
    rng = np.random.default_rng([FixedSeed.EDIT_STRIP, SOURCE_TASKS.index(task)])
    if task == "edit":
        edits = [sample_edit(rng, name) for name in islice(cycle(OPERATIONS), COUNT)]
        sources = render([edit.source for edit in edits], *size)
        targets = render([edit.target for edit in edits], *size)
        return Triples(sources, tuple(edit.instruction for edit in edits), targets)
    scenes = [sample_scene(rng, "single" if index % 2 else "two") for index in range(COUNT)]
    images = render(scenes, *size)
    if task == "inpaint":
        masks = [sample_mask(rng, *size, scene=scene, kind="object") for scene in scenes]
        return inpaint_examples(images, tuple(caption(scene, rng) for scene in scenes), torch.stack(masks))
    sources = upsampled(downsampled(images, FACTOR), FACTOR)
    return Triples(sources, (None,) * COUNT, images, factors=(FACTOR,) * COUNT)


def _draw(sources: Tensor, results: Tensor, texts: list[str]) -> Image.Image:
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
        lines = "\n".join(wrapped(pen, font, texts[index], width)[:3])
        pen.multiline_text((left, GAP + 2 * height + ARROW + 4), lines, (40, 40, 40), font)
    return sheet
