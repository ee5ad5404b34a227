"""Images that a pipeline generates for examples with a source: edits, inpainting and super-resolution."""

from __future__ import annotations

import torch
from torch import Tensor

from microforge.data.edit_examples import Triples, downsampled
from microforge.pipeline import MicroForgePipeline


def generate_examples(pipeline: MicroForgePipeline, task: str, examples: Triples, seed: int = 0) -> Tensor:
    """The results of ``pipeline`` for ``examples`` as images (B, 3, H, W) in [0, 1].

    Examples that all have a prompt, or none, and one factor are generated as a batch; others one by one.

    Args:
        pipeline: The model.
        task: One of ``SOURCE_TASKS``.
        examples: Sources, prompts and, by task, masks or factors.
        seed: Image i uses the seed ``seed`` + i.
    """
    count = len(examples.texts)
    prompts = [text for text in examples.texts if text is not None]
    if count > 1 and (len(prompts) not in (0, count) or len(set(examples.factors)) > 1):
        images = [generate_examples(pipeline, task, examples[index], seed + index) for index in range(count)]
        return torch.cat(images)
    prompt = prompts or None
    if task == "inpaint":
        assert examples.masks is not None
        return pipeline.inpaint(examples.targets, examples.masks, prompt, seed=seed)
    if task == "edit":
        return pipeline.edit(examples.sources, prompt, seed=seed, mask=examples.masks)
    factor = examples.factors[0]
    return pipeline.super_resolve(downsampled(examples.targets, factor), factor, prompt, seed=seed)
