"""What ``verify`` checks of a quantized target beside its components: recorded metrics, and those that the
golden files let it measure again. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from microforge.bundle.consistency import parts_of
from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Manifest
from microforge.bundle.targets import Target, TargetName
from microforge_export.checks.golden import Array, Case
from microforge_export.checks.metrics import Metric, guidance_norm_metric, image_metrics, worst_metric
from microforge_export.checks.parity import Pair, guidance_norm_ratio, psnr_db
from microforge_runtimes import open_session


def recorded_metrics(target: Target) -> list[Metric]:
    """What the build measured over many images: it cannot be measured again without torch."""
    return [
        _named(item, f"recorded at {size}: {item.what}")
        for size, quality in target.quality.items()
        for item in image_metrics(quality)
    ]


def replayed_image(target: Target, name: str, size: str, reference: Array, image: Array) -> list[Metric]:
    """PSNR of a golden sample against the worst that is allowed at its size."""
    quality = target.quality.get(size)
    if quality is None:
        return []
    metric = worst_metric(round(psnr_db(reference, image), 2), quality.limits.psnr_worst_db, 1)
    return [_named(metric, f"PSNR of the image of {name}")]


def replayed_guidance_norm_ratio(
    bundle: Bundle, target: TargetName, key: str, cases: Sequence[Case]
) -> list[Metric]:
    """The guidance-norm ratio of a network over the golden steps that were evaluated with and without the prompt."""
    manifest = bundle.manifest
    quality = manifest.targets[target].quality.get(str(manifest.components[key].size))
    pairs = golden_pairs(manifest, key, cases)
    if quality is None or not pairs:
        return []
    session = open_session(bundle, target, key)
    try:
        output = manifest.tasks[manifest.default_task].output
        value = round(guidance_norm_ratio(pairs, output, session.run), 4)
    finally:
        session.close()
    limits = quality.limits
    metric = guidance_norm_metric(value, limits.guidance_norm_ratio_low, limits.guidance_norm_ratio_high)
    return [_named(metric, f"guidance-norm ratio of {key}")]


def golden_pairs(manifest: Manifest, key: str, cases: Sequence[Case]) -> list[Pair]:
    """Cases of a network at the same latent and time under two prompts; the later one is the empty prompt's."""
    names = [spec.name for spec in manifest.components[key].inputs]
    kinds = {name: _kinds(manifest, name) for name in names}
    moving = [name for name in names if kinds[name] & {"latent", "time"}]
    prompted = [name for name in names if "encoded" in kinds[name]]
    pairs = []
    for index, case in enumerate(cases):
        for other in cases[index + 1 :]:
            same = all(np.array_equal(case.inputs[name], other.inputs[name]) for name in moving)
            if same and any(not np.array_equal(case.inputs[name], other.inputs[name]) for name in prompted):
                pairs.append(Pair(case, other))
                break
    return pairs


def _kinds(manifest: Manifest, name: str) -> set[str]:
    expression = manifest.conditions.get(name)
    return set() if expression is None else {part.kind for part in parts_of(expression)}


def _named(metric: Metric, what: str) -> Metric:
    return replace(metric, what=what)
