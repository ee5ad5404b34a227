"""Makes many images in a row with one model, and prints the resources of its process as it goes.

Run as a script: MODEL TARGET KEEP_LOADED (0 or 1) THREADS IMAGES. TARGET is - for a checkpoint. Every line of stdout is a
JSON object: images made so far, resident bytes, open files, threads of the process.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import microforge

_BATCH = 10


def main() -> None:
    """Make the images; all tasks of the model take turns, from files and into files."""
    path, target, kept, threads, images = sys.argv[1:]
    options = {} if target == "-" else {"target": target, "keep_loaded": kept == "1"}
    warnings.simplefilter("ignore")
    with (
        tempfile.TemporaryDirectory() as folder,
        microforge.load(path, threads=1, **options) as model,  # type: ignore[arg-type]
        ThreadPoolExecutor(int(threads)) as pool,
    ):
        source = Path(folder, "source.png")
        image, mask = make_source()
        image.save(source)

        def one(number: int) -> None:
            name = Path(folder, f"{number % 16}.png")
            make_image(model, number, source, mask).save(name, force=True)

        for start in range(0, int(images), _BATCH):
            list(pool.map(one, range(start, start + _BATCH)))
            print(json.dumps(_resources(start + _BATCH)), flush=True)


def make_source() -> tuple[Image.Image, NDArray[np.bool_]]:
    """A source image and a mask of its size."""
    mask = np.zeros((70, 90), bool)
    mask[20:50, 20:60] = True
    return Image.effect_mandelbrot((90, 70), (-2.0, -1.5, 1.0, 1.5), 40).convert("RGB"), mask


def make_image(
    model: microforge.Model, number: int, source: Image.Image | Path, mask: NDArray[np.bool_]
) -> microforge.GeneratedImage:
    """The ``number``-th image, of the task whose turn it is."""
    task = model.tasks[number % len(model.tasks)]
    if task == "edit":
        return model.edit(source, f"{number} blue", seed=number)
    if task == "inpaint":
        return model.inpaint(source, mask, "a circle", seed=number)
    if task == "super-resolve":
        return model.super_resolve(source, 2, seed=number)
    if task == "vary":
        return model.vary(source, "a square", strength=0.5, seed=number)
    return model.generate(f"{number} circles", seed=number)


def _resources(images: int) -> dict[str, int]:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    files, threads = (len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task"))
    return {"images": images, "resident": resident, "files": files, "threads": threads}


if __name__ == "__main__":
    main()
