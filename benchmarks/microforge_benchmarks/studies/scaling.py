"""Time and memory against image size and token count: measured points, and the power laws through them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microforge.bundle.files import Bundle
from microforge.errors import BundleError, SpecError
from microforge_benchmarks.measure.latency import Died, Settings, environment, measure, measure_memory
from microforge_benchmarks.measure.random_bundles import Form, Precision, random_bundle


@dataclass(frozen=True)
class Plan:
    """What to measure: ``sides`` in pixels for the whole model, ``tokens`` of the denoiser for both forms.

    ``precision`` is that of the whole model; the two forms are compared in fp32.
    """

    config: str
    sides: tuple[int, ...]
    tokens: tuple[int, ...]
    cache: Path
    runs: int = 5
    threads: int | None = 1
    precision: Precision = "fp32"


@dataclass(frozen=True)
class Point:
    """Medians in seconds, memory in bytes, of one square image size; memory is that of the whole process."""

    form: Form
    side: int
    tokens: int
    image: float
    denoiser_step: float
    decoder: float
    peak_rss: int | None
    denoiser_rss: int | None


def tokens_side(tokens: int, downsample: int = 32) -> int:
    """Pixels of the square image that has so many latent tokens.

    Raises:
        SpecError: when no square image has.
    """
    root = math.isqrt(tokens)
    if tokens < 1 or root * root != tokens:
        raise SpecError(f"tokens is {tokens}; a square image has a square number, as 256, 1024 or 4096")
    return root * downsample


def measure_point(bundle: Bundle, form: Form, plan: Plan) -> Point:
    """One size: times with all stages loaded, the denoiser's memory with nothing else beside it.

    Raises:
        BundleError: when a measurement fails.
    """
    row = measure(bundle, Settings(threads=plan.threads, runs=plan.runs, loading="resident"))
    warm, step = row.latency.warm_image, row.latency.step
    if row.failure is not None or warm is None or step is None:
        raise BundleError(f"{bundle.path}: {row.failure or 'no image was timed'}")
    alone = measure_memory(bundle, Settings(threads=plan.threads, loading="staged"))
    held = None if isinstance(alone, Died) else alone.peaks.get("denoiser")
    entry = bundle.size()
    return Point(
        form, entry.height, math.prod(entry.latent_shape[1:]), warm.median, step.median,
        row.latency.stages["vae_decoder"].median, row.memory.peak_rss, held,
    )  # fmt: skip


def exponent(tokens: Sequence[int], values: Sequence[float]) -> float | None:
    """p of the power law ``values ~ tokens ** p`` by least squares of the logarithms; None for fewer than two."""
    if len(set(tokens)) < 2 or min(values) <= 0:
        return None
    return float(np.polyfit(np.log(tokens), np.log(values), 1)[0])


def crossover(tokens: Sequence[int], dense: Sequence[float], chunked: Sequence[float]) -> float | None:
    """Tokens from which the chunked form is the quicker one, between points in logarithms; None when it never
    is, the smallest count when it always is. ``tokens`` rise."""
    gaps = [math.log(a / b) for a, b in zip(dense, chunked, strict=True)]
    if gaps[0] >= 0:
        return float(tokens[0])
    for index in range(1, len(gaps)):
        if gaps[index] >= 0:
            low, high = math.log(tokens[index - 1]), math.log(tokens[index])
            return math.exp(low + (high - low) * -gaps[index - 1] / (gaps[index] - gaps[index - 1]))
    return None


def run_plan(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every point; JSON values with the points, their exponents and the crossover, and what was left out.

    Raises:
        BundleError: when not one point can be measured. SpecError, MissingExtraError: as ``random_bundle``.
    """
    jobs: list[tuple[Form, int]] = [("preset", side) for side in plan.sides]
    forms: tuple[Form, ...] = ("dense", "chunked", "linear")
    jobs += [(form, tokens_side(count)) for form in forms for count in plan.tokens]
    points, failed = [], []
    for number, (form, side) in enumerate(jobs, 1):
        say(f"[{number}/{len(jobs)}] {plan.config} {form} {side} px: building")
        precision = plan.precision if form == "preset" else "fp32"
        try:
            bundle = random_bundle(plan.config, form, side, plan.cache, precision)
            say(f"[{number}/{len(jobs)}] {plan.config} {form} {side} px: measuring")
            points.append(measure_point(bundle, form, plan))
        except (
            BundleError
        ) as error:  # such as the dense form where memory ends; the other points are worth keeping
            say(f"[{number}/{len(jobs)}] left out: {error}")
            failed.append(f"{form} at {side} px: {error}")
    if not points:
        raise BundleError(f"not one size could be measured; the last: {failed[-1]}")
    return {**summary(plan, points), "left_out": failed}


def summary(plan: Plan, points: Sequence[Point]) -> dict[str, Any]:
    """The points and what they tell, as JSON values. Exponents are against tokens, which grow as the pixels do."""
    found: dict[str, dict[str, float | None]] = {}
    by_form: dict[str, list[Point]] = {}
    for point in points:
        by_form.setdefault(point.form, []).append(point)
    for form, items in by_form.items():
        tokens = [point.tokens for point in items]
        found[form] = {
            "denoiser_step": exponent(tokens, [point.denoiser_step for point in items]),
            "image": exponent(tokens, [point.image for point in items]),
            "decoder": exponent(tokens, [point.decoder for point in items]),
        }
    cross = None
    steps = {form: {item.tokens: item.denoiser_step for item in items} for form, items in by_form.items()}
    if both := sorted(set(steps.get("dense", {})) & set(steps.get("chunked", {}))):
        cross = crossover(both, *([steps[form][count] for count in both] for form in ("dense", "chunked")))
    return {
        "config": plan.config, "threads": plan.threads, "runs": plan.runs, "precision": plan.precision, "weights": "random",
        "environment": environment(Settings()).model_dump(mode="json"),
        "points": [asdict(point) for point in points], "exponents": found, "crossover_tokens": cross,
    }  # fmt: skip
