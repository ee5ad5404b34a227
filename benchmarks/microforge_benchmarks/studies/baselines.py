"""Comparison of a bundle with baselines in one run: PyTorch, and the compute of other models.

Every round times each of them once, so a busy or hot machine affects all of them, and ratios are taken within a round.
The order is reversed in every second round, so that no one always runs with the caches that the same other one filled.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from microforge.bundle.entry import Entry
from microforge.bundle.files import Bundle
from microforge.bundle.measurements import Environment, Spread, spread
from microforge.bundle.targets import Precision
from microforge.errors import BundleError, SpecError, missing_extra
from microforge_benchmarks.measure.latency import (
    MeasurementFailure,
    MeasurementSettings,
    environment,
    measure_memory,
)
from microforge_benchmarks.measure.worker import PROMPT
from microforge_benchmarks.studies.baseline_models import (
    BASELINES,
    BaselineSampler,
    baseline_peak,
    export_baseline,
)

BUNDLE = "microforge"
TORCH = ("torch-eager", "torch-compile")
NAMES = (*TORCH, *BASELINES)
Claim = Literal["same image", "compute and memory only"]
#: Generates one image.
ImageSampler = Callable[[], object]


@dataclass(frozen=True)
class BaselineSettings:
    """Settings of a comparison.

    Attributes:
        names: baselines, of ``NAMES``.
        cache: folder that keeps the exported models.
        checkpoint: checkpoint that the bundle was built from, for PyTorch; None for the shipped student.
        size: (height, width) in pixels; None for the bundle's first size.
        rounds: images per model.
        threads: CPU threads of every engine.
    """

    names: tuple[str, ...]
    cache: Path
    checkpoint: Path | None = None
    size: tuple[int, int] | None = None
    rounds: int = 10
    threads: int = 1


class BaselineEntry(Entry):
    """Measurements of one model.

    Attributes:
        name: the bundle, or one of ``NAMES``.
        claim: what may be compared: the same image, or only compute and memory.
        seconds: time of an image.
        peak_rss: peak RSS of the process in bytes; null if it was not measured.
        ratio: median over the rounds of its time over the bundle's.
        ratio_low: lower quartile of the ratio.
        ratio_high: upper quartile of the ratio.
    """

    name: str
    claim: Claim
    seconds: Spread
    peak_rss: int | None
    ratio: float
    ratio_low: float
    ratio_high: float


class BaselineReport(Entry):
    """Report of ``mf-bench against``; the first entry is the bundle."""

    bundle: str
    model: str
    precision: Precision
    size: str
    steps: int
    rounds: int
    threads: int
    entries: tuple[BaselineEntry, ...]
    environment: Environment


def check_names(text: str) -> tuple[str, ...]:
    """Baselines in ``text``, separated by commas.

    Raises:
        SpecError: when a name is unknown, or there is none.
    """
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise SpecError(f"--with is {text!r}; write some of: {', '.join(NAMES)}")
    return names


def interleaved(samplers: Mapping[str, ImageSampler], rounds: int) -> dict[str, list[float]]:
    """Seconds of every sampler in each round, after one call of each for warm-up."""
    for sampler in samplers.values():
        sampler()
    times: dict[str, list[float]] = {name: [] for name in samplers}
    for number in range(rounds):
        order = list(samplers) if number % 2 == 0 else list(samplers)[::-1]
        for name in order:
            start = time.perf_counter()
            samplers[name]()
            times[name].append(time.perf_counter() - start)
    return times


def run_comparison(bundle: Bundle, settings: BaselineSettings, say: Callable[[str], None]) -> BaselineReport:
    """Load all models, time them in turn, and measure the memory of those that run in ONNX Runtime.

    Raises:
        BundleError: when the bundle cannot generate, or was not built from the checkpoint.
        CheckpointError: when the checkpoint cannot be read.
        MissingExtraError: when a package is missing that PyTorch or the baselines need.
    """
    from microforge_runtimes.generator import Generator

    entry = bundle.size(settings.size)
    size, steps = (entry.height, entry.width), bundle.manifest.steps
    folders = {}
    for name in (name for name in settings.names if name in BASELINES):
        say(f"{name}: exporting for {entry.size}, once")
        folders[name] = export_baseline(name, size, settings.cache)
    with Generator(bundle, "onnx", size, settings.threads, keep_loaded=True) as generator:
        samplers: dict[str, ImageSampler] = {BUNDLE: lambda: generator.generate(PROMPT)}
        samplers |= _torch_samplers(bundle, settings, size)
        for name, folder in folders.items():
            say(f"{name}: loading")
            samplers[name] = BaselineSampler(folder, steps, settings.threads)
        say(f"timing {', '.join(samplers)} in turn")
        times = interleaved(samplers, settings.rounds)
    del samplers
    peaks: dict[str, int | None] = {BUNDLE: _bundle_peak(bundle, settings)}
    for name, folder in folders.items():
        say(f"{name}: memory")
        peaks[name] = baseline_peak(folder, steps, settings.threads)
    return baseline_report(bundle, settings, times, peaks)


def baseline_report(
    bundle: Bundle, settings: BaselineSettings, times: Mapping[str, Sequence[float]],
    peaks: Mapping[str, int | None],
) -> BaselineReport:  # fmt: skip
    """Report of the seconds of each round and of the peaks in bytes."""
    return BaselineReport(
        bundle=bundle.id,
        model=bundle.manifest.model.name,
        precision=bundle.target("onnx").precision,
        size=str(bundle.size(settings.size)),
        steps=bundle.manifest.steps,
        rounds=settings.rounds,
        threads=settings.threads,
        entries=tuple(_entry(name, values, times[BUNDLE], peaks.get(name)) for name, values in times.items()),
        environment=environment(MeasurementSettings()),
    )


def _entry(
    name: str, times: Sequence[float], bundle_times: Sequence[float], peak: int | None
) -> BaselineEntry:
    ratios = sorted(value / reference for value, reference in zip(times, bundle_times, strict=True))
    return BaselineEntry(
        name=name,
        claim="compute and memory only" if name in BASELINES else "same image",
        seconds=spread(times),
        peak_rss=peak,
        ratio=statistics.median(ratios),
        ratio_low=ratios[len(ratios) // 4],
        ratio_high=ratios[-1 - len(ratios) // 4],
    )


def _bundle_peak(bundle: Bundle, settings: BaselineSettings) -> int | None:
    memory = MeasurementSettings("onnx", settings.size, settings.threads, loading="resident")
    result = measure_memory(bundle, memory)
    return None if isinstance(result, MeasurementFailure) else result.peak_rss


def _torch_samplers(
    bundle: Bundle, settings: BaselineSettings, size: tuple[int, int]
) -> dict[str, ImageSampler]:
    """The same model in PyTorch, eager and with compiled networks."""
    names = [name for name in settings.names if name in TORCH]
    if not names:
        return {}
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", "train") from None
    from microforge.checkpoint import SHIPPED_STUDENT, read_checkpoint
    from microforge.io.quiet import quiet
    from microforge.pipeline import MicroForgePipeline

    torch.set_num_threads(settings.threads)
    folder = SHIPPED_STUDENT if settings.checkpoint is None else settings.checkpoint
    if read_checkpoint(folder).sha256 != bundle.manifest.provenance.checkpoint_sha256:
        raise BundleError(f"{bundle.path} was not built from {folder}; give its checkpoint with --checkpoint")
    samplers: dict[str, ImageSampler] = {}
    for name in names:
        pipeline = MicroForgePipeline.from_pretrained(folder).requires_grad_(False)
        if name == "torch-compile":
            for module in (pipeline.backbone, pipeline.planner, pipeline.vae.decoder):
                module.compile()
            with quiet("torch._dynamo", "torch._inductor"):  # compiles now, with warnings about caches
                pipeline.text2img(PROMPT, *size)
        samplers[name] = lambda pipeline=pipeline: pipeline.text2img(PROMPT, *size)  # type: ignore[misc]
    return samplers
