"""One measurement in a process of its own: ``python -m microforge_benchmarks.measure.worker JOB`` prints its result.

The process has no torch, and loads nothing before the clock runs and the memory limit is set. There are several kinds of
measurements because they disturb one another: sampling memory costs time, and a network loads faster the second time.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from microforge.bundle.entry import Entry
from microforge.bundle.manifest import Role
from microforge.bundle.measurements import Operator
from microforge.errors import MicroForgeError

if TYPE_CHECKING:
    from microforge_runtimes.generator import Generator

Kind = Literal["load", "generate", "memory", "profile"]
PROMPT = "a red circle left of a blue square"
WARM_UPS = 3


class MeasurementJob(Entry):
    """What to measure; ``started`` is the parent's ``time.monotonic()``, a clock that all processes share."""

    kind: Kind
    bundle: str
    target: str
    size: tuple[int, int] | None = None
    threads: int | None = None
    runs: int = 20
    keep_loaded: bool = True
    data_limit: int | None = None
    started: float


class Measurements(Entry):
    """Raw measurements in seconds and bytes; empty or null where this kind of job does not measure them."""

    loaded: float | None = None
    first: float | None = None
    images: tuple[float, ...] = ()
    stages: dict[Role, tuple[float, ...]] = Field(default={})
    steps: tuple[float, ...] = ()
    cpu: float | None = None
    base: int | None = None
    peak_rss: int | None = None
    peak_pss: int | None = None
    peaks: dict[Role, int] = Field(default={})
    timeline: tuple[tuple[float, int], ...] = ()
    operators: tuple[Operator, ...] = ()


def measure_load(job: MeasurementJob) -> Measurements:
    """Measure the time until all networks of text-to-image generation are loaded."""
    from microforge.bundle.files import load_bundle
    from microforge_runtimes.engines.registry import open_session

    bundle = load_bundle(job.bundle)
    size = bundle.size(job.size).size
    keys = [bundle.component(stage.role, size)[0] for stage in bundle.manifest.stages()]
    sessions = [open_session(bundle, job.target, key, job.threads) for key in keys]
    loaded = time.monotonic() - job.started
    for session in sessions:
        session.close()
    return Measurements(loaded=loaded)


def measure_generation(job: MeasurementJob) -> Measurements:
    """Measure the first image from the start of the process, then ``runs`` images after ``WARM_UPS`` more."""
    from microforge_runtimes.generator import Generator
    from microforge_runtimes.sampler import Step

    ticks: list[float] = []

    def tick(step: Step) -> None:
        ticks.append(time.perf_counter())

    with Generator(job.bundle, job.target, job.size, job.threads, job.keep_loaded) as generator:
        generator.generate(PROMPT)
        first = time.monotonic() - job.started
        for _ in range(WARM_UPS):
            generator.generate(PROMPT)
        images: list[float] = []
        steps: list[float] = []
        roles = [stage.role for stage in generator.manifest.stages()]
        stages: dict[Role, list[float]] = {role: [] for role in roles}
        cpu = time.process_time()
        for seed in range(job.runs):
            ticks.clear()
            start = time.perf_counter()
            result = generator.generate(PROMPT, seed, callback=tick)
            images.append(time.perf_counter() - start)
            # The first step starts inside the stage, after loading, so steps are measured between callbacks.
            steps += [after - before for before, after in itertools.pairwise(ticks)]
            for role in roles:
                stages[role].append(result.seconds[role])
        cpu = time.process_time() - cpu
    return Measurements(
        first=first, images=tuple(images), stages={role: tuple(stages[role]) for role in roles},
        steps=tuple(steps), cpu=cpu / job.runs,
    )  # fmt: skip


def measure_memory(job: MeasurementJob) -> Measurements:
    """Measure memory over time, and the peak of every stage, while the stages load and generate two images."""
    from microforge_benchmarks.measure.memory import MemorySampler, peak_resident_bytes, resident_bytes
    from microforge_runtimes.generator import Generator
    from microforge_runtimes.request import Request

    peaks: dict[Role, int] = {}
    with Generator(job.bundle, job.target, job.size, job.threads, job.keep_loaded) as generator:
        generator.check(Request(prompt=PROMPT))
        _load_engine(job.target)
        base, before = resident_bytes()[0], peak_resident_bytes()
        with MemorySampler() as sampler:
            for seed in range(2):
                _generate_by_stage(generator, seed, peaks)
    samples = sampler.samples
    counts = [count for count in (before, peak_resident_bytes(), *peaks.values()) if count is not None]
    return Measurements(
        base=base, peak_rss=max(counts, default=None), peaks=peaks,
        peak_pss=max((pss for *_, pss in samples), default=None),
        timeline=tuple((round(seconds, 4), rss) for seconds, rss, _ in samples),
    )  # fmt: skip


def _generate_by_stage(generator: Generator, seed: int, peaks: dict[Role, int]) -> None:
    """Generate one image, stage by stage as in ``Generator.run``, and store the peak RSS of each in ``peaks``."""
    from microforge_runtimes.request import Request
    from microforge_runtimes.sampler import to_pixels

    checked = generator.check(Request(prompt=PROMPT, seed=seed))
    by_kind = {stage.kind: stage.role for stage in generator.manifest.stages()}
    with _peak_of(by_kind.get("prompt_encoder", "encoders"), peaks):
        encodings = generator.encode(checked)
    with _peak_of(by_kind["network"], peaks):
        latent = generator.sample(checked, encodings)
    with _peak_of(by_kind.get("decoder", "image"), peaks):
        to_pixels(generator.decode(latent))


@contextlib.contextmanager
def _peak_of(role: Role, peaks: dict[Role, int]) -> Iterator[None]:
    """Store the largest RSS inside the block in ``peaks``, if the kernel can reset its peak."""
    from microforge_benchmarks.measure.memory import peak_resident_bytes, reset_peak

    is_reset = reset_peak()
    yield
    peak = peak_resident_bytes()
    if is_reset and peak is not None:
        peaks[role] = max(peak, peaks.get(role, 0))


def _load_engine(target: str) -> None:
    """Import the engine, so that its memory can be separated from that of the networks."""
    if target == "onnx":
        import microforge_runtimes.engines.onnx
    elif target == "executorch":
        import executorch.runtime  # noqa: F401
    elif target == "litert":
        import microforge_runtimes.engines.litert  # noqa: F401


def measure_profile(job: MeasurementJob) -> Measurements:
    """Measure the time of every kind of operator with the engine's profiler."""
    from microforge_benchmarks.measure.operators import profile

    return Measurements(operators=profile(job.bundle, job.target, job.size, job.threads, job.runs))


_MEASURE: dict[Kind, Callable[[MeasurementJob], Measurements]] = {
    "load": measure_load,
    "generate": measure_generation,
    "memory": measure_memory,
    "profile": measure_profile,
}


def main(text: str) -> None:
    """Do the job in ``text`` (JSON) and print its measurements as the last line; an error is one line on stderr."""
    job = MeasurementJob.model_validate_json(text)
    if job.data_limit is not None:
        from microforge_benchmarks.measure.memory import apply_data_limit

        apply_data_limit(job.data_limit)
    try:
        measured = _MEASURE[job.kind](job)
    except MicroForgeError as error:
        sys.exit(f"{error}")
    except MemoryError:
        sys.exit("Python could not allocate memory")
    print(measured.model_dump_json(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
