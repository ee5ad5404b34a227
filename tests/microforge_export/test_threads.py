"""ExecuTorch, whose methods have one block of memory each, gives every thread the image of a serial run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from microforge_runtimes.generator import Generator


def test_an_executorch_bundle_used_by_eight_threads_gives_the_images_of_serial_runs(bundle: Path) -> None:
    with Generator(bundle, "executorch", threads=1, keep_loaded=True) as generator:
        serial = [generator.generate("a red circle", seed).image for seed in range(16)]
        with ThreadPoolExecutor(8) as pool:
            parallel = list(pool.map(lambda seed: generator.generate("a red circle", seed).image, range(16)))
    assert all(np.array_equal(one, two) for one, two in zip(serial, parallel, strict=True))
