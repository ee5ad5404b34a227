"""Time and memory against image size and number of tokens: measured points, and power laws fitted to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from microforge.bundle.entry import Entry
from microforge.bundle.files import Bundle
from microforge.bundle.measurements import Environment
from microforge.errors import BundleError, SpecError
from microforge_benchmarks.measure.latency import (
    MeasurementFailure,
    MeasurementSettings,
    environment,
    measure,
    measure_memory,
)
from microforge_benchmarks.measure.random_bundles import Precision, SSMForm, random_bundle


@dataclass(frozen=True)
class ScalingPlan:
    """Points to measure.

    Attributes:
        config: name of the configuration; its weights are random.
        sides: sides in pixels of square images, for the whole model.
        tokens: numbers of latent tokens at which the forms of the SSM are compared, in fp32.
        cache: folder that keeps the bundles.
        runs: warm images per point.
        threads: CPU threads of the engine.
        precision: precision of the whole model.
    """

    config: str
    sides: tuple[int, ...]
    tokens: tuple[int, ...]
    cache: Path
    runs: int = 5
    threads: int | None = 1
    precision: Precision = "fp32"


class ScalingPoint(Entry):
    """Medians in seconds and peaks in bytes of one square image size; memory is that of the whole process."""

    form: SSMForm
    side: int
    tokens: int
    image: float
    denoiser_step: float
    decoder: float
    peak_rss: int | None
    denoiser_rss: int | None


class ScalingExponents(Entry):
    """Exponents p of ``time ~ tokens ** p``; None for fewer than two sizes."""

    denoiser_step: float | None
    image: float | None
    decoder: float | None


class ScalingReport(Entry):
    """Report of ``mf-bench scaling``; ``crossover_tokens`` is where the chunked SSM becomes faster than the dense one."""

    config: str
    threads: int | None
    runs: int
    precision: Precision
    weights: Literal["random"] = "random"
    environment: Environment
    points: tuple[ScalingPoint, ...]
    exponents: dict[SSMForm, ScalingExponents]
    crossover_tokens: float | None
    left_out: tuple[str, ...] = ()


def tokens_side(tokens: int, downsample: int = 32) -> int:
    """Side in pixels of the square image with ``tokens`` latent tokens.

    Raises:
        SpecError: when ``tokens`` is not a square number.
    """
    root = math.isqrt(tokens)
    if tokens < 1 or root * root != tokens:
        raise SpecError(f"tokens is {tokens}; a square image has a square number, as 256, 1024 or 4096")
    return root * downsample


def measure_point(bundle: Bundle, form: SSMForm, plan: ScalingPlan) -> ScalingPoint:
    """Measure one size: times with all stages loaded, and the peak of the denoiser with no other stage loaded.

    Raises:
        BundleError: when a measurement fails.
    """
    row = measure(bundle, MeasurementSettings(threads=plan.threads, runs=plan.runs, loading="resident"))
    warm, step = row.latency.warm_image, row.latency.step
    if row.failure is not None or warm is None or step is None:
        raise BundleError(f"{bundle.path}: {row.failure or 'no image was timed'}")
    staged = measure_memory(bundle, MeasurementSettings(threads=plan.threads, loading="staged"))
    entry = bundle.size()
    return ScalingPoint(
        form=form,
        side=entry.height,
        tokens=math.prod(entry.latent_shape[1:]),
        image=warm.median,
        denoiser_step=step.median,
        decoder=row.latency.stages["vae_decoder"].median,
        peak_rss=row.memory.peak_rss,
        denoiser_rss=None if isinstance(staged, MeasurementFailure) else staged.peaks.get("denoiser"),
    )


def exponent(tokens: Sequence[int], values: Sequence[float]) -> float | None:
    """Exponent p of ``values ~ tokens ** p``, by least squares of the logarithms; None for fewer than two sizes."""
    if len(set(tokens)) < 2 or min(values) <= 0:
        return None
    return float(np.polyfit(np.log(tokens), np.log(values), 1)[0])


def crossover(tokens: Sequence[int], dense: Sequence[float], chunked: Sequence[float]) -> float | None:
    """Number of tokens from which the chunked form is faster, interpolated between points in logarithms.

    Args:
        tokens: numbers of tokens, increasing.
        dense: seconds of the dense form.
        chunked: seconds of the chunked form.

    Returns:
        None when the chunked form is never faster; the first number of tokens when it always is.
    """
    gaps = [math.log(a / b) for a, b in zip(dense, chunked, strict=True)]
    if gaps[0] >= 0:
        return float(tokens[0])
    for index in range(1, len(gaps)):
        if gaps[index] >= 0:
            low, high = math.log(tokens[index - 1]), math.log(tokens[index])
            return math.exp(low + (high - low) * -gaps[index - 1] / (gaps[index] - gaps[index - 1]))
    return None


def run_scaling(plan: ScalingPlan, say: Callable[[str], None]) -> ScalingReport:
    """Build and measure every point of ``plan``; a point that cannot be measured is listed in ``left_out``.

    Raises:
        BundleError: when no point can be measured.
        SpecError: when the configuration cannot have one of the sizes.
        MissingExtraError: when torch is not installed.
    """
    jobs: list[tuple[SSMForm, int]] = [("preset", side) for side in plan.sides]
    forms: tuple[SSMForm, ...] = ("dense", "chunked", "linear")
    jobs += [(form, tokens_side(count)) for form in forms for count in plan.tokens]
    points, failures = [], []
    for number, (form, side) in enumerate(jobs, 1):
        name = f"[{number}/{len(jobs)}] {plan.config} {form} {side} px"
        say(f"{name}: building")
        precision = plan.precision if form == "preset" else "fp32"
        try:
            bundle = random_bundle(plan.config, form, side, plan.cache, precision)
            say(f"{name}: measuring")
            points.append(measure_point(bundle, form, plan))
        except (
            BundleError
        ) as error:  # such as the dense form when memory ends; the other points are still useful
            say(f"{name}: left out: {error}")
            failures.append(f"{form} at {side} px: {error}")
    if not points:
        raise BundleError(f"no size could be measured; the last: {failures[-1]}")
    return scaling_report(plan, points, failures)


def scaling_report(
    plan: ScalingPlan, points: Sequence[ScalingPoint], left_out: Sequence[str] = ()
) -> ScalingReport:
    """Report of measured points, with exponents against the number of tokens, which is proportional to the pixels."""
    groups: dict[SSMForm, list[ScalingPoint]] = {}
    for point in points:
        groups.setdefault(point.form, []).append(point)
    return ScalingReport(
        config=plan.config,
        threads=plan.threads,
        runs=plan.runs,
        precision=plan.precision,
        environment=environment(MeasurementSettings()),
        points=tuple(points),
        exponents={form: _exponents(group) for form, group in groups.items()},
        crossover_tokens=_crossover(groups.get("dense", []), groups.get("chunked", [])),
        left_out=tuple(left_out),
    )


def _exponents(points: Sequence[ScalingPoint]) -> ScalingExponents:
    tokens = [point.tokens for point in points]
    return ScalingExponents(
        denoiser_step=exponent(tokens, [point.denoiser_step for point in points]),
        image=exponent(tokens, [point.image for point in points]),
        decoder=exponent(tokens, [point.decoder for point in points]),
    )


def _crossover(dense: Sequence[ScalingPoint], chunked: Sequence[ScalingPoint]) -> float | None:
    """Crossover over the numbers of tokens that both forms have."""
    dense_times, chunked_times = (
        {point.tokens: point.denoiser_step for point in points} for points in (dense, chunked)
    )
    tokens = sorted(dense_times.keys() & chunked_times.keys())
    if not tokens:
        return None
    return crossover(tokens, [dense_times[n] for n in tokens], [chunked_times[n] for n in tokens])
