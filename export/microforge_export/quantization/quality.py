"""How far a quantized target is from torch in fp32: components, whole images, what the prompt still changes,
and the plan state. Whatever is outside its limit is a reason to build nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from microforge.bundle import targets
from microforge.bundle.manifest import Role
from microforge_export.checks.figures import image_figures
from microforge_export.checks.parity import LIMIT_DB, plan_drift, psnr_db, survival
from microforge_export.components.component import SourceComponent, SourceModel
from microforge_export.quantization.calibration import Roll, Run, roll
from microforge_export.recipes.build_recipe import SampleRequest
from microforge_export.recipes.int8_recipe import Int8Limits

#: The first drawings whose every evaluation judges single components; images are judged over all drawings.
CASE_DRAWINGS = 4
#: Told what is drawn next.
Reporter = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class MeasuredQuality:
    """Measured differences from torch in fp32. PSNR in dB, one per whole image and the worst per component."""

    components: Mapping[Role, float]
    images: tuple[float, ...]
    survival: float
    plan_drift: float

    @property
    def image_median_db(self) -> float:
        return statistics.median(self.images)

    @property
    def image_worst_db(self) -> float:
        return min(self.images)


def component_psnr(run: Run, role: Role, rolls: Sequence[Roll]) -> float:
    """The worst output of a component over the reference's own inputs, in dB."""
    worst = LIMIT_DB
    for case in (case for item in rolls for case in item.cases.get(role, ())):
        results = run(role, case.inputs)
        worst = min(worst, *(psnr_db(value, results[name]) for name, value in case.outputs.items()))
    return round(worst, 2)


def reference_rolls(
    model: SourceModel,
    components: Sequence[SourceComponent],
    run: Run,
    requests: Sequence[SampleRequest],
    report: Reporter,
) -> tuple[Roll, ...]:
    """What torch generates, to judge by; the first ``CASE_DRAWINGS`` with every evaluation."""
    rolls = []
    for index, request in enumerate(requests):
        report(f"reference {index + 1}/{len(requests)}")
        rolls.append(roll(model, components, run, request, keep_cases=index < CASE_DRAWINGS))
    return tuple(rolls)


def measure_quality(
    model: SourceModel, components: Sequence[SourceComponent], run: Run, requests: Sequence[SampleRequest],
    references: Sequence[Roll], report: Reporter = lambda _: None,
) -> MeasuredQuality:  # fmt: skip
    """Quality of the artefacts behind ``run``.

    Args:
        components: of one size.
        references: what torch drew for ``requests``.
    """
    pairs = [pair for item in references for pair in item.pairs]
    images, drift = [], 0.0
    for index, (request, reference) in enumerate(zip(requests, references, strict=True)):
        report(f"drawing {index + 1}/{len(requests)}")
        drawn = roll(model, components, run, request, keep_cases=False)
        images.append(round(psnr_db(reference.image, drawn.image), 2))
        drift = max(drift, plan_drift(reference.plan, drawn.plan))
    return MeasuredQuality(
        components={item.role: component_psnr(run, item.role, references) for item in components},
        images=tuple(images),
        survival=round(survival(pairs, lambda inputs: run("denoiser", inputs)), 4),
        plan_drift=round(drift, 4),
    )


def manifest_quality(quality: MeasuredQuality, limits: Int8Limits) -> targets.Quality:
    """What the manifest records of ``quality``."""
    return targets.Quality(
        images=len(quality.images),
        psnr_median_db=round(quality.image_median_db, 2),
        psnr_worst_db=quality.image_worst_db,
        survival=quality.survival,
        plan_drift=quality.plan_drift,
        limits=targets.QualityLimits(
            psnr_median_db=limits.image_psnr_median_db, psnr_worst_db=limits.image_psnr_worst_db,
            survival_low=limits.guidance_norm_ratio_low, survival_high=limits.guidance_norm_ratio_high, plan_drift=limits.relative_state_error,
        ),
    )  # fmt: skip


def shortfalls(quality: MeasuredQuality, limits: Int8Limits) -> list[str]:
    """What is outside its limit, one phrase each; those of components begin with the component."""
    least = limits.component_psnr_db
    found = [
        f"{role} has {value:.1f} dB, needed: {least:g} dB" for role, value in quality.components.items() if value < least
    ]  # fmt: skip
    recorded = manifest_quality(quality, limits)
    return found + [item.phrase() for item in image_figures(recorded) if not item.met]


def at_fault(groups: Sequence[str], figure: Callable[[Sequence[str]], float]) -> str:
    """The group that lowers ``figure`` most, by bisection: the worse half is halved again.

    Args:
        groups: at least one.
        figure: of an artefact in which only the given groups are quantized; higher is better.
    """
    left = list(groups)
    while len(left) > 1:
        halves = left[: len(left) // 2], left[len(left) // 2 :]
        left = min(halves, key=figure)
    return left[0]
