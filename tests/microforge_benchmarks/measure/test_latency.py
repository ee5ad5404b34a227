"""Measurements in new processes, on the miniature bundle."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from microforge.bundle.devices import DEVICES
from microforge.bundle.files import load_bundle
from microforge_benchmarks.measure import memory
from microforge_benchmarks.measure.latency import (
    MeasurementFailure,
    MeasurementSettings,
    download_bytes,
    measure,
    run_group,
    run_job,
)
from microforge_benchmarks.measure.worker import Kind, MeasurementJob
from microforge_export.memory.fit import fit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _job(kind: Kind, bundle: Path, data_limit: int | None = None) -> MeasurementJob:
    return MeasurementJob(
        kind=kind, bundle=str(bundle), target="onnx", threads=1, runs=2, data_limit=data_limit,
        started=time.monotonic(),
    )  # fmt: skip


def test_a_row_has_every_metric(bundle: Path) -> None:
    row = measure(load_bundle(bundle), MeasurementSettings(threads=1, runs=2, profile=True))
    times, usage = row.latency, row.memory
    assert times.warm_image is not None and times.warm_image.count == 2
    assert times.first_image is not None and times.first_image > times.warm_image.median
    assert set(times.stages) == {"text_encoder", "denoiser", "vae_decoder"}
    assert sum(stage.least for stage in times.stages.values()) <= times.warm_image.p90
    assert times.step is not None and times.step.count == 2 * (row.steps - 1)
    assert times.cold_load is not None and times.cpu_per_image is not None
    assert usage.base is not None and usage.peak_rss is not None and usage.peak_rss >= usage.base > 0
    assert set(usage.stages) == set(times.stages) and max(usage.stages.values()) <= usage.peak_rss
    assert usage.timeline and max(rss for _, rss in usage.timeline) <= usage.peak_rss * 1.01
    assert {item.component for item in row.operators} <= set(load_bundle(bundle).manifest.components)
    assert row.failure is None and row.limit is None and row.drift is None


def test_a_device_that_fit_refuses_really_cannot_run_it(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = load_bundle(bundle)
    device = DEVICES["phone-2gb"].model_copy(update={"ram_bytes": memory.MIN_LIMIT, "app_share": 1.0})
    assert not fit(opened, device, "onnx").fits
    monkeypatch.setattr(memory, "limit_mechanism", lambda: "rlimit-data")
    row = measure(opened, MeasurementSettings(runs=1, limit=device.budget_bytes, timeout=20))
    assert row.limit is not None and not row.limit.survived and row.limit.mechanism == "rlimit-data"
    assert row.failure is not None and row.failure.startswith("memory: ")
    assert row.latency.warm_image is None


def test_a_run_that_takes_too_long_is_a_row_with_a_failure(bundle: Path) -> None:
    row = measure(load_bundle(bundle), MeasurementSettings(runs=1, timeout=0.05))
    assert row.failure is not None and row.failure.startswith("memory: no result after 0.05 s")
    assert row.limit is None


def test_children_of_a_worker_end_with_its_timeout(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(mark)!r}).touch()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.monotonic()
    assert run_group([sys.executable, "-c", code], timeout=1.0) is None
    assert time.monotonic() - start < 2.5  # the child still holds the pipes
    time.sleep(max(0.0, start + 4.0 - time.monotonic()))
    assert not mark.exists()


def test_a_worker_that_fails_gives_its_last_line(tmp_path: Path) -> None:
    result = run_job(_job("load", tmp_path / "absent.mfb"))
    assert isinstance(result, MeasurementFailure) and "absent.mfb does not exist" in result.reason
    assert not result.timed_out and "Error" not in result.reason


def test_a_worker_never_loads_torch(bundle: Path) -> None:
    import subprocess

    code = "import sys; from microforge_benchmarks.measure.worker import main; main(sys.argv[1]); print('torch' in sys.modules)"
    words = [sys.executable, "-c", code, _job("generate", bundle).model_dump_json()]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_the_download_is_every_file_of_one_target(bundle: Path) -> None:
    opened = load_bundle(bundle)
    names = {entry.path for entry in opened.target("onnx").entries()} | {"manifest.json"}
    names |= {item.file.path for item in opened.manifest.tokenizers.values()}
    assert download_bytes(opened, "onnx") == sum((bundle / name).stat().st_size for name in names)
