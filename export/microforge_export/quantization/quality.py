"""How far a quantized target is from torch in fp32: components, whole images, what the prompt still changes,
and the carried state. Whatever is outside its limit is a reason to build nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from microforge.bundle import targets
from microforge_export.checks.metrics import image_metrics
from microforge_export.checks.parity import LIMIT_DB, guidance_norm_ratio, psnr_db, state_drift
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_export.quantization.calibration import RecordedSample, Run, record_sample
from microforge_export.recipes.int8_recipe import Int8Limits

#: The first samples whose every evaluation judges single components; images are judged over all samples.
RECORDED_SAMPLES = 4
#: Progress callback: what is sampled next.
Reporter = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class MeasuredQuality:
    """Measured differences from torch in fp32. PSNR in dB, one per whole image and the worst per component."""

    components: Mapping[str, float]
    images: tuple[float, ...]
    guidance_norm_ratio: float
    state_drift: float | None  # None for a model without a carried state

    @property
    def image_median_db(self) -> float:
        return statistics.median(self.images)

    @property
    def image_worst_db(self) -> float:
        return min(self.images)


def component_psnr(run: Run, role: str, samples: Sequence[RecordedSample]) -> float:
    """The worst output of a component over the reference's own inputs, in dB."""
    worst = LIMIT_DB
    for case in (case for item in samples for case in item.cases.get(role, ())):
        results = run(role, case.inputs)
        worst = min(worst, *(psnr_db(value, results[name]) for name, value in case.outputs.items()))
    return round(worst, 2)


def reference_samples(
    model: SourceModel,
    components: Sequence[SourceComponent],
    run: Run,
    requests: Sequence[SampleRequest],
    report: Reporter,
) -> tuple[RecordedSample, ...]:
    """What torch generates, to judge by; the first ``RECORDED_SAMPLES`` with every evaluation."""
    samples = []
    for index, request in enumerate(requests):
        report(f"reference {index + 1}/{len(requests)}")
        samples.append(record_sample(model, components, run, request, keep_cases=index < RECORDED_SAMPLES))
    return tuple(samples)


def measure_quality(
    model: SourceModel, components: Sequence[SourceComponent], run: Run, requests: Sequence[SampleRequest],
    references: Sequence[RecordedSample], report: Reporter = lambda _: None,
) -> MeasuredQuality:  # fmt: skip
    """Quality of the artefacts behind ``run``.

    Args:
        components: of one size.
        references: what torch makes of ``requests``.
    """
    pairs = [pair for item in references for pair in item.pairs]
    images, drifts = [], list[float | None]()
    for index, (request, reference) in enumerate(zip(requests, references, strict=True)):
        report(f"sample {index + 1}/{len(requests)}")
        sampled = record_sample(model, components, run, request, keep_cases=False)
        images.append(round(psnr_db(reference.image, sampled.image), 2))
        drifts.append(state_drift(reference.states, sampled.states))
    return MeasuredQuality(
        components={item.role: component_psnr(run, item.role, references) for item in components},
        images=tuple(images),
        guidance_norm_ratio=round(
            guidance_norm_ratio(
                pairs, references[0].output, lambda inputs: run(references[0].network, inputs)
            ),
            4,
        ),
        state_drift=None if None in drifts else round(max(item for item in drifts if item is not None), 4),
    )


def manifest_quality(quality: MeasuredQuality, limits: Int8Limits) -> targets.Quality:
    """What the manifest records of ``quality``."""
    return targets.Quality(
        images=len(quality.images),
        psnr_median_db=round(quality.image_median_db, 2),
        psnr_worst_db=quality.image_worst_db,
        guidance_norm_ratio=quality.guidance_norm_ratio,
        state_drift=quality.state_drift,
        limits=targets.QualityLimits(
            psnr_median_db=limits.image_psnr_median_db, psnr_worst_db=limits.image_psnr_worst_db,
            guidance_norm_ratio_low=limits.guidance_norm_ratio_low, guidance_norm_ratio_high=limits.guidance_norm_ratio_high, state_drift=None if quality.state_drift is None else limits.relative_state_error,
        ),
    )  # fmt: skip


def shortfalls(quality: MeasuredQuality, limits: Int8Limits) -> list[str]:
    """What is outside its limit, one phrase each; those of components begin with the component."""
    least = limits.component_psnr_db
    found = [
        f"{role} has {value:.1f} dB, needed: {least:g} dB" for role, value in quality.components.items() if value < least
    ]  # fmt: skip
    recorded = manifest_quality(quality, limits)
    return found + [item.phrase() for item in image_metrics(recorded) if not item.met]


def at_fault(groups: Sequence[str], metric: Callable[[Sequence[str]], float]) -> str:
    """The group that lowers ``metric`` most, by bisection: the worse half is halved again.

    Args:
        groups: at least one.
        metric: of an artefact in which only the given groups are quantized; higher is better.
    """
    left = list(groups)
    while len(left) > 1:
        halves = left[: len(left) // 2], left[len(left) // 2 :]
        left = min(halves, key=metric)
    return left[0]
