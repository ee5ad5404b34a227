"""A row from measurements in fresh processes: nothing that one measurement loads is there for the next."""

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
from microforge_benchmarks.measure.worker import Job, Kind, Measured

_ENGINES = {"onnx": "onnxruntime", "executorch": "executorch", "coreml": "coremltools"}
#: numpy multiplies no matrices here, but its BLAS reserves a buffer for every thread that it might use, which
#: counts under RLIMIT_DATA.
_VARIABLES = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Settings:
    """How to measure; ``limit`` in bytes, ``timeout`` in seconds for each measurement."""

    target: str = "onnx"
    size: tuple[int, int] | None = None
    threads: int | None = None
    runs: int = 20
    loading: Loading = "resident"
    limit: int | None = None
    profile: bool = False
    device: str | None = None
    timeout: float = 900.0


#: Engines with a profiler of their own.
PROFILED = ("onnx", "executorch")


@dataclass(frozen=True)
class Died:
    """A measurement that ended without a result, and the last thing it said."""

    reason: str
    late: bool = False


def measure(bundle: Bundle, settings: Settings) -> Row:
    """Measure everything once, each in a process of its own.

    A run that dies is an error, but under a memory limit, or when it takes too long, it is a result.

    Raises:
        BundleError: when the bundle lacks the target or size, or a measurement fails for another reason.
    """
    bundle.target(settings.target)
    size = bundle.size(settings.size)
    found: dict[Kind, Measured] = {}
    kinds: tuple[Kind, ...] = ("memory", "load", "draw")
    if settings.profile and settings.target in PROFILED:
        kinds += ("profile",)
    for kind in kinds:
        result = run_job(_job(kind, bundle, settings), settings.limit, settings.timeout)
        if isinstance(result, Died):
            if settings.limit is None and not result.late:
                raise BundleError(f"{bundle.path}: the {kind} measurement failed: {result.reason}")
            return _row(bundle, settings, (size.height, size.width), {}, f"{kind}: {result.reason}")
        found[kind] = result
    return _row(bundle, settings, (size.height, size.width), found, None)


def measure_memory(bundle: Bundle, settings: Settings) -> Measured | Died:
    """The measurement of memory alone."""
    return run_job(_job("memory", bundle, settings), settings.limit, settings.timeout)


def _job(kind: Kind, bundle: Bundle, settings: Settings) -> Job:
    if kind == "load":
        drop_from_page_cache(bundle)
    limited = settings.limit is not None and memory.mechanism() == "rlimit-data"
    return Job(
        kind=kind, bundle=str(bundle.path), target=settings.target, size=settings.size, threads=settings.threads,
        runs=settings.runs, keep_loaded=settings.loading == "resident",
        data_limit=settings.limit if limited else None, started=time.monotonic(),
    )  # fmt: skip


def run_job(job: Job, limit: int | None = None, timeout: float = 900.0) -> Measured | Died:
    """Do ``job`` in a fresh process, under ``limit`` bytes where one is given, in at most ``timeout`` seconds."""
    words = [sys.executable, "-m", "microforge_benchmarks.measure.worker", job.model_dump_json()]
    if limit is not None and job.data_limit is None:
        words = memory.scope_words(limit) + words
    found = run_group(words, timeout)
    if found is None:
        return Died(
            f"no result after {timeout:g} s; a library that gets no memory may wait for ever", late=True
        )
    status, said, errors = found
    lines = said.splitlines()
    if status == 0 and lines:
        return Measured.model_validate_json(lines[-1])
    ended = f"ended by {_signal_name(-status)}" if status < 0 else f"exit status {status}"
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), ended)
    reason = last if status > 0 else f"{ended}: {last}"
    return Died(" ".join(reason.split())[:300])


def run_group(words: Sequence[str], timeout: float) -> tuple[int, str, str] | None:
    """Exit status, stdout and stderr of ``words``; None when they had to be ended after ``timeout`` seconds.

    The process leads a group of its own, so that nothing it started is left behind.
    """
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, **_VARIABLES},
    ) as process:  # fmt: skip
        try:
            said, errors = process.communicate(timeout=timeout)
        except BaseException as error:  # Ctrl-C does not reach a group of its own
            _end_group(process)
            if isinstance(error, subprocess.TimeoutExpired):
                return None
            raise
    return process.returncode, said, errors


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
    """Ask the kernel to forget the bundle's files, so that the next load reads them from storage."""
    if not hasattr(os, "posix_fadvise"):
        return
    inside = [bundle.path / entry.path for entry in bundle.files()]
    for path in inside if bundle.archive is None else [bundle.path]:
        with contextlib.suppress(OSError), path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _row(
    bundle: Bundle,
    settings: Settings,
    size: tuple[int, int],
    found: dict[Kind, Measured],
    failure: str | None,
) -> Row:
    manifest, target = bundle.manifest, bundle.target(settings.target)
    none = Measured()
    draw, load = found.get("draw", none), found.get("load", none)
    held, profile = found.get("memory", none), found.get("profile", none)
    limit = None
    if settings.limit is not None:
        limit = Limit(bytes=settings.limit, mechanism=memory.mechanism(), survived=failure is None)
    name = next(name for name in manifest.targets if name == settings.target)
    return Row(
        bundle=bundle.id, model=str(manifest.model.get("name")), target=name, precision=target.precision,
        height=size[0], width=size[1], steps=manifest.sampler.steps, threads=settings.threads,
        loading=settings.loading, download=download_bytes(bundle, settings.target),
        created=datetime.now(UTC).isoformat(timespec="seconds"), environment=environment(settings),
        latency=Latency(
            cold_load=load.loaded, first_image=draw.first, cpu_per_image=draw.cpu,
            warm_image=spread(draw.images) if draw.images else None,
            stages={role: spread(values) for role, values in draw.stages.items()},
            step=spread(draw.steps) if draw.steps else None,
        ),
        memory=MemoryUse(
            base=held.base, peak_rss=held.peak_rss, peak_pss=held.peak_pss, stages=held.peaks,
            timeline=held.timeline,
        ),
        drift=drift(draw.images), limit=limit, failure=failure, operators=profile.operators,
    )  # fmt: skip


def download_bytes(bundle: Bundle, target: str) -> int:
    """What a phone fetches: the target's files, the tokenizer and the manifest."""
    files = sum(entry.bytes for entry in bundle.target(target).entries())
    return files + bundle.manifest.tokenizer.file.bytes + bundle.locate("manifest.json").stat().st_size


def environment(settings: Settings) -> Environment:
    """This machine, as a row says it."""
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
