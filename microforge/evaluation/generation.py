"""Runs prompts through anything that draws, lets the oracle judge every image, and adds the figures up.

A ``Draw`` is all that is known about a model here: checkpoint, bundle, true renders and VAE round trips are
evaluated by the same code. Letters: B images, H W image height and width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microforge.data import pixels
from microforge.data.world.captions import Prompt
from microforge.data.world.renderer import render
from microforge.data.world.scenes import KINDS, choice, sample_scene
from microforge.evaluation.ground_truth import draw_scenes
from microforge.evaluation.metrics import psnr, ssim
from microforge.evaluation.oracle.detector import Detection, detect
from microforge.evaluation.oracle.verdict import FACTS, Verdict, judge, wilson

Images = NDArray[np.uint8]
#: (prompts, seed) -> images (B, H, W, 3), one per prompt; image i is drawn with seed + i.
Draw = Callable[[Sequence[Prompt], int], Images]
#: Images (B, 3, H, W) in [0, 1] through an encoder and a decoder, same shape out.
RoundTrip = Callable[[Tensor], Tensor]

BATCH = 16


@dataclass(frozen=True)
class Judged:
    """One prompt, the image (H, W, 3) drawn for it, what the oracle saw there and its verdict."""

    prompt: Prompt
    seed: int
    image: Images
    detection: Detection
    verdict: Verdict


def evaluate(
    draw: Draw, prompts: Sequence[Prompt], seed: int = 0, batch: int = BATCH,
    watch: Callable[[Images], None] | None = None,
) -> Iterator[Judged]:  # fmt: skip
    """Draw and judge ``prompts`` in order; prompt i gets seed + i whatever the batch size.

    ``watch`` is shown the images (B, H, W, 3) of every batch, in order, before they are judged.
    """
    for start in range(0, len(prompts), batch):
        group = prompts[start : start + batch]
        images = draw(group, seed + start)
        if watch is not None:
            watch(images)
        for index, image in enumerate(images):
            detection = detect(image)
            verdict = judge(group[index], detection)
            # A copy, because a view would keep the whole batch in memory.
            yield Judged(group[index], seed + start + index, image.copy(), detection, verdict)


def without_image(one: Judged) -> Judged:
    """``one`` with an empty image, for results whose pixels nobody looks at any more."""
    return replace(one, image=np.zeros((0, 0, 3), np.uint8))


def scenes_draw(height: int, width: int, round_trip: RoundTrip | None = None) -> Draw:
    """The ceiling: true renders of what each prompt asks for, through the VAE when one is given."""

    def draw(prompts: Sequence[Prompt], seed: int) -> Images:
        images = draw_scenes(prompts, seed, height, width)
        return images if round_trip is None else to_uint8_images(round_trip(to_float_images(images)))

    return draw


def rate(facts: Sequence[bool]) -> dict[str, Any]:
    """How many of ``facts`` hold, their share and its Wilson 95 % interval; the share of none is None."""
    low, high = wilson(sum(facts), len(facts))
    share = sum(facts) / len(facts) if facts else None
    return {
        "correct": sum(facts), "total": len(facts),
        "accuracy": None if share is None else round(share, 4), "low": round(low, 4), "high": round(high, 4),
    }  # fmt: skip


def summarize(results: Sequence[Judged]) -> dict[str, Any]:
    """Rates (see ``rate``) overall, by category, by fact over the prompts that state it, and seen vs held-out.

    ``split`` compares only categories that have prompts of both kinds, so that an easy category on one side
    does not pass for composition.
    """
    hidden = {one.prompt.category for one in results if one.prompt.held_out}
    return {
        "overall": rate([one.verdict.correct for one in results]),
        "categories": _by_category(results),
        "facts": {name: rate(_stated(results, name)) for name in FACTS},
        "split": {
            "seen": _part([one for one in results if one.prompt.category in hidden and not one.prompt.held_out]),
            "held_out": _part([one for one in results if one.prompt.held_out]),
        },
    }  # fmt: skip


def _part(results: Sequence[Judged]) -> dict[str, Any]:
    return {"overall": rate([one.verdict.correct for one in results]), "categories": _by_category(results)}


def _by_category(results: Sequence[Judged]) -> dict[str, Any]:
    names = dict.fromkeys(one.prompt.category for one in results)
    return {
        name: rate([one.verdict.correct for one in results if one.prompt.category == name]) for name in names
    }


def _stated(results: Sequence[Judged], fact: str) -> list[bool]:
    values = [getattr(one.verdict, fact) for one in results]
    return [value for value in values if value is not None]


def vae_quality(round_trip: RoundTrip, height: int, width: int, scenes: int, seed: int) -> dict[str, Any]:
    """Mean PSNR (dB) and SSIM of a VAE on ``scenes`` held-out scenes, every kind equally likely, whatever training's mix."""
    rng = np.random.default_rng(seed)
    kinds = tuple(KINDS)
    totals, done = np.zeros(2), 0
    while done < scenes:
        count = min(BATCH, scenes - done)
        images = render([sample_scene(rng, choice(rng, kinds), True) for _ in range(count)], height, width)
        back = round_trip(images)
        totals += [float(psnr(back, images).sum()), float(ssim(back, images).sum())]
        done += count
    mean = totals / scenes
    return {"scenes": scenes, "psnr_db": _finite(mean[0]), "ssim": _finite(mean[1])}


def _finite(value: float) -> float | None:
    """JSON has no infinity, which is the PSNR of a perfect copy."""
    return round(float(value), 4) if math.isfinite(value) else None


def to_float_images(images: Images) -> Tensor:
    """Bytes (B, H, W, 3) to float (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0


def to_uint8_images(images: Tensor) -> Images:
    """Float (B, 3, H, W) to bytes (B, H, W, 3); values outside [0, 1] are cut off."""
    result: Images = pixels.to_uint8(images.detach().cpu().float()).permute(0, 2, 3, 1).contiguous().numpy()
    return result
