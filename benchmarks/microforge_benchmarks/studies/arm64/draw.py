"""One drawing, whole, for comparing engines: ``python -m microforge_benchmarks.studies.arm64.draw BUNDLE PROMPT SEED OUT``.

Runs natively and under emulation with the runtime alone (no torch), and writes everything that can differ to an
NPZ file. It keeps no times: those of an emulated processor say nothing.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.files import Bundle, load_bundle
from microforge.errors import MicroForgeError
from microforge.noise import raw_words
from microforge_runtimes.generator import Generator
from microforge_runtimes.sampler import Floats

WORD_BLOCKS = 4096


@dataclass(frozen=True)
class Engine:
    """What drew: processor architecture, and versions of Python, numpy and ONNX Runtime."""

    architecture: str
    python: str
    numpy: str
    onnxruntime: str


@dataclass(frozen=True)
class Drawing:
    """One image and what led to it.

    ``words`` (n, 4) uint32 of Philox and ``noise`` (1, C, h, w) from the seed, ``z`` (1, C, h, w) the final
    normalised latent, ``image`` (1, 3, H, W) the decoder's floats in [0, 1], ``pixels`` (H, W, 3) bytes.
    """

    engine: Engine
    words: NDArray[np.uint32]
    noise: Floats
    z: Floats
    image: Floats
    pixels: NDArray[np.uint8]


def draw(bundle: Path, prompt: str, seed: int) -> Drawing:
    """Draw at the bundle's first size, with its own schedule, on one thread, so that sums have one order.

    Raises:
        MicroForgeError: as ``Generator`` does.
    """
    import onnxruntime

    engine = Engine(platform.machine(), platform.python_version(), np.__version__, onnxruntime.__version__)
    with open_generator(load_bundle(bundle)) as generator:
        result = generator.generate(prompt, seed)
        image, noise = generator.decode(result.z), generator.noise(seed)
    return Drawing(engine, raw_words(seed, 0, WORD_BLOCKS), noise, result.z, image, result.image)


def open_generator(bundle: Bundle) -> Generator:
    """The generator of ``bundle``'s first size on ONNX Runtime; raises as ``Generator`` does."""
    size = bundle.manifest.sizes[0]
    return Generator(bundle, "onnx", (size.height, size.width), threads=1)


def save(drawing: Drawing, out: Path) -> None:
    """Write ``drawing`` as an NPZ file."""
    engine = drawing.engine
    facts = np.array([engine.architecture, engine.python, engine.numpy, engine.onnxruntime])
    with out.open("wb") as stream:
        np.savez(
            stream, words=drawing.words, noise=drawing.noise, z=drawing.z, image=drawing.image,
            pixels=drawing.pixels, engine=facts,
        )  # fmt: skip


def load(path: Path) -> Drawing:
    """The drawing in an NPZ file that ``save`` wrote."""
    with np.load(path, allow_pickle=False) as found:
        engine = Engine(*(str(fact) for fact in found["engine"]))
        return Drawing(
            engine, found["words"], found["noise"], found["z"], found["image"], found["pixels"]
        )  # fmt: skip


def main(words: list[str]) -> None:
    """Draw and save; a refusal is one line."""
    bundle, prompt, seed, out = words
    try:
        save(draw(Path(bundle), prompt, int(seed)), Path(out))
    except MicroForgeError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main(sys.argv[1:])
