"""One model used by several threads at once gives the images of serial runs (other engines: tests/reliability/test_load.py)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import microforge
from microforge.bundle.files import Bundle
from microforge.io.image_decoding import decode_image_bytes
from microforge.io.quiet import quiet_pillow
from microforge_runtimes.engines.registry import open_session
from microforge_runtimes.engines.session import Session
from microforge_runtimes.generator import Generator

THREADS = 8


def together(job: Callable[[int], Any]) -> list[Any]:
    """The results of ``job`` for 0 to 15, made by eight threads that start at the same moment."""
    barrier = threading.Barrier(THREADS)

    def run(number: int) -> Any:
        if number < THREADS:
            barrier.wait()
        return job(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(2 * THREADS)))


def _calls(model: microforge.Model) -> tuple[Callable[[int], microforge.GeneratedImage], ...]:
    """One call per task, whose prompt and seed depend on a number."""
    source = Image.effect_mandelbrot((90, 70), (-2.0, -1.5, 1.0, 1.5), 40).convert("RGB")
    mask = np.zeros((70, 90), bool)
    mask[20:50, 20:60] = True
    return (
        lambda number: model.generate(f"{number} circles", seed=number),
        lambda number: model.edit(source, f"{number} blue", seed=number),
        lambda number: model.inpaint(source, mask, "a circle", seed=number),
        lambda number: model.super_resolve(source, 2, seed=number),
        lambda number: model.vary(source, "a square", strength=0.5, seed=number),
    )


@pytest.mark.parametrize("keep_loaded", [True, False])
def test_a_bundle_used_by_eight_threads_gives_the_images_of_serial_runs(
    editing_bundle: Path, keep_loaded: bool
) -> None:
    with microforge.load(editing_bundle, threads=1, keep_loaded=keep_loaded) as model:
        calls = _calls(model)
        serial = [np.asarray(calls[number % 5](number).image) for number in range(2 * THREADS)]
        parallel = together(lambda number: np.asarray(calls[number % 5](number).image))
    assert all(np.array_equal(one, two) for one, two in zip(serial, parallel, strict=True))
    assert len({image.tobytes() for image in serial}) == len(serial), "each number has an image of its own"


def test_a_checkpoint_used_by_eight_threads_gives_the_images_of_serial_runs(editing_checkpoint: Path) -> None:
    with microforge.load(editing_checkpoint, threads=1) as model:
        calls = _calls(model)
        serial = [np.asarray(calls[number % 5](number).image) for number in range(2 * THREADS)]
    with microforge.load(
        editing_checkpoint, threads=1
    ) as model:  # the networks are read by several threads, too
        calls = _calls(model)
        parallel = together(lambda number: np.asarray(calls[number % 5](number).image))
    assert all(np.array_equal(one, two) for one, two in zip(serial, parallel, strict=True))


@pytest.mark.parametrize(("keep_loaded", "most"), [(True, 3), (False, 1)])
def test_stages_are_opened_once_or_one_at_a_time_however_many_threads_there_are(
    editing_bundle: Path, keep_loaded: bool, most: int
) -> None:
    opened = 0
    peak = 0

    class Counted:
        def __init__(self, session: Session) -> None:
            self.run, self._close = session.run, session.close

        def close(self) -> None:
            nonlocal opened
            opened -= 1
            self._close()

    def opener(bundle: Bundle, target: str, key: str, threads: int | None) -> Session:
        nonlocal opened, peak
        opened += 1
        peak = max(peak, opened)
        return Counted(open_session(bundle, target, key, threads))

    with Generator(editing_bundle, "onnx", threads=1, keep_loaded=keep_loaded, opener=opener) as generator:
        results = together(lambda seed: generator.generate("a red circle", seed))
    assert peak == most and opened == 0
    assert all(set(result.seconds) == {"text_encoder", "denoiser", "vae_decoder"} for result in results)


def test_warning_filters_are_the_same_after_images_were_decoded_by_eight_threads(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    before = list(warnings.filters)
    together(lambda number: [decode_image_bytes(data) for _ in range(20)])
    assert warnings.filters == before
    with quiet_pillow(), pytest.warns(UserWarning, match="of the caller"):
        warnings.warn("of the caller", stacklevel=1)  # only Pillow's are silenced
