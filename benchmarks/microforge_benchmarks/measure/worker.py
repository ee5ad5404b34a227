"""One measurement in a process of its own: ``python -m microforge_benchmarks.measure.worker JOB`` prints its result.

No torch, and nothing loads before the clock and the memory limit are set. Several kinds, since one disturbs
another: watching memory costs time, and a network that was loaded once loads quicker the second time.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from microforge.bundle.manifest import DRAWING, Role
from microforge.bundle.measurements import Operator
from microforge.bundle.targets import Entry
from microforge.errors import MicroForgeError

if TYPE_CHECKING:
    from microforge_runtimes.generator import Generator

Kind = Literal["load", "draw", "memory", "profile"]
PROMPT = "a red circle left of a blue square"
WARM_UPS = 3


class Job(Entry):
    """What to measure. ``started``: the parent's ``time.monotonic()``, which all processes share."""

    kind: Kind
    bundle: str
    target: str
    size: tuple[int, int] | None = None
    threads: int | None = None
    runs: int = 20
    keep_loaded: bool = True
    data_limit: int | None = None
    started: float


class Measured(Entry):
    """Raw figures, in seconds and bytes; empty or null where the kind of job does not measure them."""

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


def measure_load(job: Job) -> Measured:
    """Time until every network of a drawing is ready."""
    from microforge.bundle.files import load_bundle
    from microforge_runtimes.engines.registry import open_session

    bundle = load_bundle(job.bundle)
    size = bundle.size(job.size).size
    keys = [bundle.component(role, None if role == "text_encoder" else size)[0] for role in DRAWING]
    sessions = [open_session(bundle, job.target, key, job.threads) for key in keys]
    loaded = time.monotonic() - job.started
    for session in sessions:
        session.close()
    return Measured(loaded=loaded)


def measure_draw(job: Job) -> Measured:
    """The first image from the start of the process, then ``runs`` warm ones after ``WARM_UPS`` more."""
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
        stages: dict[Role, list[float]] = {role: [] for role in DRAWING}
        cpu = time.process_time()
        for seed in range(job.runs):
            ticks.clear()
            start = time.perf_counter()
            result = generator.generate(PROMPT, seed, callback=tick)
            images.append(time.perf_counter() - start)
            # the first step's start lies inside the stage, behind the load: steps are the gaps after it
            steps += [after - before for before, after in itertools.pairwise(ticks)]
            for role in DRAWING:
                stages[role].append(result.seconds[role])
        cpu = time.process_time() - cpu
    return Measured(
        first=first, images=tuple(images), stages={role: tuple(stages[role]) for role in DRAWING},
        steps=tuple(steps), cpu=cpu / job.runs,
    )  # fmt: skip


def measure_memory(job: Job) -> Measured:
    """Memory over time, and every stage's peak, while the stages load and two images are drawn."""
    from microforge_benchmarks.measure.memory import Sampler, peak_resident_bytes, resident_bytes
    from microforge_runtimes.generator import Generator

    peaks: dict[Role, int] = {}
    with Generator(job.bundle, job.target, job.size, job.threads, job.keep_loaded) as generator:
        generator.tokens(PROMPT)
        _load_engine(job.target)
        base, before = resident_bytes()[0], peak_resident_bytes()
        with Sampler() as sampler:
            for seed in range(2):
                _draw(generator, seed, peaks)
    samples = sampler.samples
    found = [count for count in (before, peak_resident_bytes(), *peaks.values()) if count is not None]
    return Measured(
        base=base, peak_rss=max(found, default=None), peaks=peaks,
        peak_pss=max((pss for *_, pss in samples), default=None),
        timeline=tuple((round(seconds, 4), rss) for seconds, rss, _ in samples),
    )  # fmt: skip


def _draw(generator: Generator, seed: int, peaks: dict[Role, int]) -> None:
    """One image, stage by stage as ``Generator.generate`` does it; ``peaks`` takes the RSS of each."""
    from microforge_runtimes.sampler import text_scale, to_pixels

    tokens = [generator.check(PROMPT, seed)]
    if text_scale(generator.bundle.manifest.sampler) != 1.0:
        tokens.append(generator.empty_tokens())
    with _peak_of("text_encoder", peaks):
        conditional, *rest = generator.encode(*tokens)
    with _peak_of("denoiser", peaks):
        z = generator.sample_latent(conditional, rest[0] if rest else None, generator.noise(seed))
    with _peak_of("vae_decoder", peaks):
        to_pixels(generator.decode(z))


@contextlib.contextmanager
def _peak_of(role: Role, peaks: dict[Role, int]) -> Iterator[None]:
    """Note the largest RSS inside the block; nothing where the kernel cannot forget its mark."""
    from microforge_benchmarks.measure.memory import forget_peak, peak_resident_bytes

    known = forget_peak()
    yield
    found = peak_resident_bytes()
    if known and found is not None:
        peaks[role] = max(found, peaks.get(role, 0))


def _load_engine(target: str) -> None:
    """Import the engine, so that its own memory is told from that of the networks."""
    if target == "onnx":
        import microforge_runtimes.engines.onnx  # noqa: F401
    elif target == "executorch":
        import executorch.runtime  # noqa: F401


def measure_profile(job: Job) -> Measured:
    """Time of every kind of operator, by the engine's own profiler."""
    from microforge_benchmarks.measure.operators import profile

    return Measured(operators=profile(job.bundle, job.target, job.size, job.threads, job.runs))


_MEASURE: dict[Kind, Callable[[Job], Measured]] = {
    "load": measure_load,
    "draw": measure_draw,
    "memory": measure_memory,
    "profile": measure_profile,
}


def main(text: str) -> None:
    """Do the job in ``text`` (JSON) and print what was measured as the last line; a refusal is one line too."""
    job = Job.model_validate_json(text)
    if job.data_limit is not None:
        from microforge_benchmarks.measure.memory import apply_data_limit

        apply_data_limit(job.data_limit)
    try:
        measured = _MEASURE[job.kind](job)
    except MicroForgeError as error:
        sys.exit(f"{error}")
    except MemoryError:
        sys.exit("Python got no memory")
    print(measured.model_dump_json(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
