"""Evaluation of text-to-image generation: the rule-based detector judges one image for each prompt.

A model is known here only as an ``ImageGenerator``, so checkpoints, bundles, true renders and round trips of the
autoencoder are evaluated by the same code. Letters: B images, H W image height and width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microforge.data import pixels
from microforge.data.world.captions import Prompt
from microforge.data.world.renderer import render
from microforge.data.world.scenes import KINDS, choice, sample_scene
from microforge.evaluation.ground_truth import render_prompts
from microforge.evaluation.metrics import psnr, ssim
from microforge.evaluation.oracle.detector import Detection, detect
from microforge.evaluation.oracle.verdict import FACTS, Verdict, judge
from microforge.evaluation.scores import (
    Accuracy,
    CategoryScores,
    GenerationScores,
    SplitScores,
    VAEQuality,
    accuracy_of,
)

Images = NDArray[np.uint8]
#: (prompts, seed) -> images (B, H, W, 3), one per prompt; image i is generated with seed + i.
ImageGenerator = Callable[[Sequence[Prompt], int], Images]
#: Images (B, 3, H, W) in [0, 1] -> their reconstructions by an autoencoder, of the same shape.
RoundTrip = Callable[[Tensor], Tensor]

BATCH = 16


@dataclass(frozen=True)
class JudgedImage:
    """An image (H, W, 3) that was generated for a prompt, the detector's reading of it, and its verdict."""

    prompt: Prompt
    seed: int
    image: Images
    detection: Detection
    verdict: Verdict


def evaluate_prompts(
    generate: ImageGenerator, prompts: Sequence[Prompt], seed: int = 0, batch: int = BATCH,
    on_batch: Callable[[Images], None] | None = None,
) -> Iterator[JudgedImage]:  # fmt: skip
    """Generate and judge an image for every prompt, in order.

    Args:
        generate: the model.
        prompts: the prompts; prompt i is generated with seed + i, independent of the batch size.
        seed: seed of the first image.
        batch: images per call of ``generate``.
        on_batch: callback with the images (B, H, W, 3) of each batch, before they are judged.
    """
    for start in range(0, len(prompts), batch):
        group = prompts[start : start + batch]
        images = generate(group, seed + start)
        if on_batch is not None:
            on_batch(images)
        for index, image in enumerate(images):
            detection = detect(image)
            verdict = judge(group[index], detection)
            # A copy, because a view would keep the whole batch in memory.
            yield JudgedImage(group[index], seed + start + index, image.copy(), detection, verdict)


def without_image(result: JudgedImage) -> JudgedImage:
    """``result`` with an empty image, which frees the memory of pixels that are not needed any more."""
    return replace(result, image=np.zeros((0, 0, 3), np.uint8))


def true_renders(height: int, width: int, round_trip: RoundTrip | None = None) -> ImageGenerator:
    """Generator of the evaluation's ceiling: true renders of every prompt, optionally after a round trip of the autoencoder."""

    def generate(prompts: Sequence[Prompt], seed: int) -> Images:
        images = render_prompts(prompts, seed, height, width)
        return images if round_trip is None else to_uint8_images(round_trip(to_float_images(images)))

    return generate


def generation_scores(results: Sequence[JudgedImage]) -> GenerationScores:
    """Scores of judged images overall, by category, by fact, and on seen and held-out compositions."""
    categories = {one.prompt.category for one in results if one.prompt.held_out}
    seen = [one for one in results if one.prompt.category in categories and not one.prompt.held_out]
    held_out = [one for one in results if one.prompt.held_out]
    everything = _category_scores(results)
    return GenerationScores(
        overall=everything.overall,
        categories=everything.categories,
        facts={name: accuracy_of(_stated(results, name)) for name in FACTS},
        split=SplitScores(_category_scores(seen), _category_scores(held_out)),
    )


def _category_scores(results: Sequence[JudgedImage]) -> CategoryScores:
    names = dict.fromkeys(one.prompt.category for one in results)
    return CategoryScores(
        _accuracy(results),
        {name: _accuracy([one for one in results if one.prompt.category == name]) for name in names},
    )


def _accuracy(results: Sequence[JudgedImage]) -> Accuracy:
    return accuracy_of([one.verdict.correct for one in results])


def _stated(results: Sequence[JudgedImage], fact: str) -> list[bool]:
    """The verdicts on one fact, over the prompts that state it."""
    values = [getattr(one.verdict, fact) for one in results]
    return [value for value in values if value is not None]


def vae_quality(round_trip: RoundTrip, height: int, width: int, scenes: int, seed: int) -> VAEQuality:
    """Reconstruction quality of an autoencoder on ``scenes`` held-out scenes, every kind equally likely."""
    rng = np.random.default_rng(seed)
    kinds = tuple(KINDS)
    totals, done = np.zeros(2), 0
    while done < scenes:
        count = min(BATCH, scenes - done)
        images = render([sample_scene(rng, choice(rng, kinds), True) for _ in range(count)], height, width)
        outputs = round_trip(images)
        totals += [float(psnr(outputs, images).sum()), float(ssim(outputs, images).sum())]
        done += count
    mean = totals / scenes
    return VAEQuality(scenes, _finite(mean[0]), _finite(mean[1]))


def _finite(value: float) -> float | None:
    """None for infinity, the PSNR of a perfect copy, because JSON has no infinity."""
    return round(float(value), 4) if math.isfinite(value) else None


def to_float_images(images: Images) -> Tensor:
    """Convert uint8 images (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0


def to_uint8_images(images: Tensor) -> Images:
    """Convert images (B, 3, H, W) in [0, 1] to uint8 (B, H, W, 3); values outside [0, 1] are clipped."""
    result: Images = pixels.to_uint8(images.detach().cpu().float()).permute(0, 2, 3, 1).contiguous().numpy()
    return result
