"""Long use of one model: images equal those of serial runs, memory stays flat, nothing stays open.

``python -m pytest tests/reliability/test_load.py -m slow --images 1000``
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import microforge
from microforge.checkpoint import SHIPPED_STUDENT
from tests.reliability.conftest import Report
from tests.reliability.processes import environment

pytestmark = pytest.mark.slow
#: Megabytes of resident memory per image that a flat line may rise by.
_SLOPE = 0.05
#: Share of the images after which memory is measured: engines and caches fill up before.
_WARM_UP = 0.2
_TARGETS = ("onnx", "executorch", "coreml")


@pytest.fixture(scope="session")
def shipped_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped student as an ONNX bundle of all tasks at 128 x 128 pixels."""
    out = tmp_path_factory.mktemp("shipped") / "shipped.mfb"
    return microforge.export(
        SHIPPED_STUDENT, out, targets=["onnx"], size=128, precision="fp32", progress=False
    )


@pytest.fixture(scope="session")
def other_bundles(
    editing_checkpoint: Path, editing_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The miniature with all tasks as a bundle of every engine."""
    folder = tmp_path_factory.mktemp("engines")
    return {"onnx": editing_bundle} | {
        target: microforge.export(
            editing_checkpoint, folder / f"{target}.mfb", targets=[target], progress=False,
            precision="fp16" if target == "coreml" else "fp32",
        )
        for target in _TARGETS[1:]
    }  # fmt: skip


def _images_by_threads(path: Path, target: str | None, count: int) -> None:
    """Compare ``count`` images made by eight threads at once with those of a serial run."""
    from tests.reliability.memory_run import make_image, make_source

    with microforge.load(path, target=target, threads=1) as model:
        source, mask = make_source()
        serial = [np.asarray(make_image(model, number, source, mask).image) for number in range(count)]
        with ThreadPoolExecutor(8) as pool:
            parallel = list(
                pool.map(
                    lambda number: np.asarray(make_image(model, number, source, mask).image), range(count)
                )
            )
    different = [number for number in range(count) if not np.array_equal(serial[number], parallel[number])]
    assert not different


@pytest.mark.parametrize("target", _TARGETS)
def test_eight_threads_on_an_engine_make_the_images_of_a_serial_run(
    target: str, other_bundles: dict[str, Path], images: int, report: Report
) -> None:
    count = max(16, images // 10)
    _images_by_threads(other_bundles[target], target, count)
    report(f"8 threads: miniature on {target}: {count} images, 0 differ")


def test_eight_threads_make_the_images_of_a_serial_run_with_a_checkpoint(
    editing_checkpoint: Path, images: int, report: Report
) -> None:
    count = max(16, images // 10)
    _images_by_threads(editing_checkpoint, None, count)
    report(f"8 threads: miniature checkpoint: {count} images, 0 differ")


def test_eight_threads_make_the_images_of_a_serial_run_with_the_shipped_student(
    shipped_bundle: Path, images: int, report: Report
) -> None:
    count = max(16, images // 10)
    _images_by_threads(shipped_bundle, None, count)
    report(f"8 threads: shipped student at 128 x 128: {count} images, 0 differ")


def _check_resources(name: str, path: Path, target: str, kept: int, threads: int, images: int) -> str:
    """Make ``images`` images in a process of their own; a line with what it needed."""
    script = Path(__file__).with_name("memory_run.py")
    command = [sys.executable, str(script), str(path), target, str(kept), str(threads), str(images)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment()})
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    warm = [row for row in rows if row["images"] > _WARM_UP * images]
    counts, resident = ([row[key] for row in warm] for key in ("images", "resident"))
    slope = float(np.polyfit(counts, np.asarray(resident) / 1e6, 1)[0])
    files, running = ({row[key] for row in warm} for key in ("files", "threads"))
    line = (
        f"in a row: {name}: {images} images, {slope:+.5f} MB an image, {resident[-1] / 1e6:.0f} MB at the end, "
        f"open files {sorted(files)}, threads {sorted(running)}"
    )
    assert slope < _SLOPE, line
    assert max(files) - min(files) <= threads and max(running) - min(running) <= threads, line
    return line


@pytest.mark.parametrize(("kept", "threads"), [(1, 1), (0, 1), (1, 8), (0, 8)])
def test_memory_is_flat_with_an_onnx_bundle(
    editing_bundle: Path, kept: int, threads: int, images: int, report: Report
) -> None:
    name = f"miniature on onnx, networks {'kept' if kept else 'freed'}, {threads} at once"
    report(_check_resources(name, editing_bundle, "onnx", kept, threads, images))


@pytest.mark.parametrize("target", _TARGETS[1:])
def test_memory_is_flat_on_another_engine(
    target: str, other_bundles: dict[str, Path], images: int, report: Report
) -> None:
    report(_check_resources(f"miniature on {target}", other_bundles[target], target, 1, 1, images))


def test_memory_is_flat_with_a_checkpoint(editing_checkpoint: Path, images: int, report: Report) -> None:
    report(_check_resources("miniature checkpoint", editing_checkpoint, "-", 1, 1, images))


def test_memory_is_flat_with_the_shipped_student(shipped_bundle: Path, images: int, report: Report) -> None:
    report(_check_resources("shipped student at 128 x 128", shipped_bundle, "onnx", 1, 1, images))
