"""Measurement of a bundle in new processes, one per kind of measurement, so that none profits from another."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from microforge.bundle.files import Bundle
from microforge.bundle.measurements import (
    Environment,
    Latency,
    Limit,
    Loading,
    MemoryUse,
    Row,
    drift,
    spread,
)
from microforge.errors import BundleError
from microforge_benchmarks.measure import memory
from microforge_benchmarks.measure.worker import Kind, MeasurementJob, Measurements

_ENGINES = {
    "onnx": "onnxruntime",
    "executorch": "executorch",
    "coreml": "coremltools",
    "litert": "ai-edge-litert",
}
#: numpy's BLAS is not used, but it reserves a buffer per thread, which counts under RLIMIT_DATA.
_VARIABLES = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class MeasurementSettings:
    """MeasurementSettings of a measurement; ``limit`` is in bytes, ``timeout`` in seconds for each process."""

    target: str = "onnx"
    size: tuple[int, int] | None = None
    threads: int | None = None
    runs: int = 20
    loading: Loading = "resident"
    limit: int | None = None
    profile: bool = False
    device: str | None = None
    timeout: float = 900.0


#: Engines that have a profiler.
PROFILED = ("onnx", "executorch")


@dataclass(frozen=True)
class MeasurementFailure:
    """A measurement that ended without a result, and the last line of its output."""

    reason: str
    timed_out: bool = False


def measure(bundle: Bundle, settings: MeasurementSettings) -> Row:
    """Measure loading, generation and memory of a bundle, each in a process of its own.

    A process that dies is an error, except under a memory limit or after the timeout, where it is a result.

    Raises:
        BundleError: when the bundle lacks the target or size, or a measurement fails for another reason.
    """
    bundle.target(settings.target)
    size = bundle.size(settings.size)
    results: dict[Kind, Measurements] = {}
    kinds: tuple[Kind, ...] = ("memory", "load", "generate")
    if settings.profile and settings.target in PROFILED:
        kinds += ("profile",)
    for kind in kinds:
        result = run_job(_job(kind, bundle, settings), settings.limit, settings.timeout)
        if isinstance(result, MeasurementFailure):
            if settings.limit is None and not result.timed_out:
                raise BundleError(f"{bundle.path}: the {kind} measurement failed: {result.reason}")
            return _row(bundle, settings, (size.height, size.width), {}, f"{kind}: {result.reason}")
        results[kind] = result
    return _row(bundle, settings, (size.height, size.width), results, None)


def measure_memory(bundle: Bundle, settings: MeasurementSettings) -> Measurements | MeasurementFailure:
    """Measure memory only."""
    return run_job(_job("memory", bundle, settings), settings.limit, settings.timeout)


def _job(kind: Kind, bundle: Bundle, settings: MeasurementSettings) -> MeasurementJob:
    if kind == "load":
        drop_from_page_cache(bundle)
    has_data_limit = settings.limit is not None and memory.limit_mechanism() == "rlimit-data"
    return MeasurementJob(
        kind=kind, bundle=str(bundle.path), target=settings.target, size=settings.size, threads=settings.threads,
        runs=settings.runs, keep_loaded=settings.loading == "resident",
        data_limit=settings.limit if has_data_limit else None, started=time.monotonic(),
    )  # fmt: skip


def run_job(
    job: MeasurementJob, limit: int | None = None, timeout: float = 900.0
) -> Measurements | MeasurementFailure:
    """Run ``job`` in a new process with at most ``limit`` bytes of memory, for at most ``timeout`` seconds."""
    command = [sys.executable, "-m", "microforge_benchmarks.measure.worker", job.model_dump_json()]
    if limit is not None and job.data_limit is None:
        command = memory.scope_command(limit) + command
    result = run_group(command, timeout)
    if result is None:
        return MeasurementFailure(
            f"no result after {timeout:g} s; a library that gets no memory may wait for ever", timed_out=True
        )
    status, output, errors = result
    lines = output.splitlines()
    if status == 0 and lines:
        return Measurements.model_validate_json(lines[-1])
    ended = f"ended by {_signal_name(-status)}" if status < 0 else f"exit status {status}"
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), ended)
    reason = last if status > 0 else f"{ended}: {last}"
    return MeasurementFailure(" ".join(reason.split())[:300])


def run_group(command: Sequence[str], timeout: float) -> tuple[int, str, str] | None:
    """Run ``command`` and return its exit status, stdout and stderr; None when it was killed after ``timeout`` seconds.

    The process has a process group of its own, so that its children are killed as well.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, **_VARIABLES},
    ) as process:  # fmt: skip
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException as error:  # Ctrl-C does not reach another process group
            _end_group(process)
            if isinstance(error, subprocess.TimeoutExpired):
                return None
            raise
    return process.returncode, output, errors


def _end_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.communicate()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def drop_from_page_cache(bundle: Bundle) -> None:
    """Drop the bundle's files from the kernel's page cache, so that the next load reads them from storage."""
    if not hasattr(os, "posix_fadvise"):
        return
    inside = [bundle.path / entry.path for entry in bundle.files()]
    for path in inside if bundle.archive is None else [bundle.path]:
        with contextlib.suppress(OSError), path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _row(
    bundle: Bundle,
    settings: MeasurementSettings,
    size: tuple[int, int],
    results: dict[Kind, Measurements],
    failure: str | None,
) -> Row:
    manifest, target = bundle.manifest, bundle.target(settings.target)
    empty = Measurements()
    generation, load = results.get("generate", empty), results.get("load", empty)
    usage, profile = results.get("memory", empty), results.get("profile", empty)
    limit = None
    if settings.limit is not None:
        limit = Limit(bytes=settings.limit, mechanism=memory.limit_mechanism(), survived=failure is None)
    name = next(name for name in manifest.targets if name == settings.target)
    return Row(
        bundle=bundle.id, model=manifest.model.name, target=name, precision=target.precision,
        height=size[0], width=size[1], steps=manifest.steps, threads=settings.threads,
        loading=settings.loading, download=download_bytes(bundle, settings.target),
        created=datetime.now(UTC).isoformat(timespec="seconds"), environment=environment(settings),
        latency=Latency(
            cold_load=load.loaded, first_image=generation.first, cpu_per_image=generation.cpu,
            warm_image=spread(generation.images) if generation.images else None,
            stages={role: spread(values) for role, values in generation.stages.items()},
            step=spread(generation.steps) if generation.steps else None,
        ),
        memory=MemoryUse(
            base=usage.base, peak_rss=usage.peak_rss, peak_pss=usage.peak_pss, stages=usage.peaks,
            timeline=usage.timeline,
        ),
        drift=drift(generation.images), limit=limit, failure=failure, operators=profile.operators,
    )  # fmt: skip


def download_bytes(bundle: Bundle, target: str) -> int:
    """Bytes that a phone downloads: the target's files, the tokenizers and the manifest."""
    return bundle.target(target).bytes + bundle.locate("manifest.json").stat().st_size


def environment(settings: MeasurementSettings) -> Environment:
    """This machine, in the form of a measured row."""
    engine = _ENGINES[settings.target]
    try:
        number = version(engine)
    except PackageNotFoundError:
        number = "unknown"
    return Environment(
        device=settings.device or platform.machine(), system=f"{platform.system()} {platform.release()}",
        processor=_processor(), cores=os.cpu_count() or 1, ram=_ram(), runtime="python",
        engine=engine, engine_version=number,
    )  # fmt: skip


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _ram() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
