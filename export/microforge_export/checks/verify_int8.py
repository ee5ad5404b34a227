"""What ``verify`` checks of a quantized target beside its components: recorded figures, and those that the
golden files let it measure again. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Task
from microforge.bundle.targets import Target, TargetName
from microforge_export.checks.figures import Figure, image_figures, survival_figure, worst_figure
from microforge_export.checks.golden import Array, Case
from microforge_export.checks.parity import Pair, psnr_db, survival
from microforge_runtimes import open_session


def recorded_figures(target: Target) -> list[Figure]:
    """What the build measured over many images: it cannot be measured again without torch."""
    return [
        _named(item, f"recorded at {size}: {item.what}")
        for size, quality in target.quality.items()
        for item in image_figures(quality)
    ]


def replayed_image(
    target: Target, task: Task, name: str, size: str, reference: Array, image: Array
) -> list[Figure]:
    """PSNR of a golden drawing against the worst that is allowed; other tasks than ``generate`` have no limit."""
    quality = target.quality.get(size)
    if quality is None or task != "generate":
        return []
    figure = worst_figure(round(psnr_db(reference, image), 2), quality.limits.psnr_worst_db, 1)
    return [_named(figure, f"PSNR of the image of {name}")]


def replayed_survival(bundle: Bundle, target: TargetName, key: str, cases: Sequence[Case]) -> list[Figure]:
    """Conditioning survival of a denoiser over the golden steps that have both guidance passes."""
    quality = bundle.manifest.targets[target].quality.get(str(bundle.manifest.components[key].size))
    pairs = golden_pairs(cases)
    if quality is None or not pairs:
        return []
    session = open_session(bundle, target, key)
    try:
        value = round(survival(pairs, session.run), 4)
    finally:
        session.close()
    limits = quality.limits
    return [
        _named(
            survival_figure(value, limits.survival_low, limits.survival_high),
            f"conditioning survival of {key}",
        )
    ]


def golden_pairs(cases: Sequence[Case]) -> list[Pair]:
    """Cases of a denoiser at the same latent and time under two texts; the later one is the empty prompt's."""
    pairs = []
    for index, case in enumerate(cases):
        for other in cases[index + 1 :]:
            same = all(np.array_equal(case.inputs[name], other.inputs[name]) for name in ("z", "t"))
            if same and not np.array_equal(case.inputs["text"], other.inputs["text"]):
                pairs.append(Pair(case, other))
                break
    return pairs


def _named(figure: Figure, what: str) -> Figure:
    return replace(figure, what=what)
