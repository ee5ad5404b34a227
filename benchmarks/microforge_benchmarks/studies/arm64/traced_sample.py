"""One image with all intermediate values, for the comparison of engines.

    python -m microforge_benchmarks.studies.arm64.traced_sample BUNDLE PROMPT SEED OUT

It runs natively and under emulation, needs only the runtime (no torch), and writes all values that can differ to an NPZ
file. Times are not measured: those of an emulated processor have no meaning.
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
class EngineVersions:
    """Processor architecture, and versions of Python, numpy and ONNX Runtime."""

    architecture: str
    python: str
    numpy: str
    onnxruntime: str


@dataclass(frozen=True)
class TracedSample:
    """One image and the values that led to it.

    Attributes:
        engine: what generated the image.
        words: Philox words (n, 4) of the seed, uint32.
        noise: initial latent (1, C, h, w).
        z: final normalized latent (1, C, h, w).
        image: output of the decoder (1, 3, H, W) in [0, 1].
        pixels: uint8 image (H, W, 3).
    """

    engine: EngineVersions
    words: NDArray[np.uint32]
    noise: Floats
    z: Floats
    image: Floats
    pixels: NDArray[np.uint8]


def trace_sample(bundle: Path, prompt: str, seed: int) -> TracedSample:
    """Generate an image at the bundle's first size, on one thread, so that the order of sums is fixed.

    Raises:
        MicroForgeError: as in ``Generator``.
    """
    import onnxruntime

    engine = EngineVersions(
        platform.machine(), platform.python_version(), np.__version__, onnxruntime.__version__
    )
    with open_generator(load_bundle(bundle)) as generator:
        result = generator.generate(prompt, seed)
        image, noise = generator.decode(result.latent), generator.noise(seed)
    return TracedSample(engine, raw_words(seed, 0, WORD_BLOCKS), noise, result.latent, image, result.image)


def open_generator(bundle: Bundle) -> Generator:
    """Open ``bundle`` at its first size on ONNX Runtime; raises as ``Generator`` does."""
    size = bundle.manifest.sizes[0]
    return Generator(bundle, "onnx", (size.height, size.width), threads=1)


def save_sample(sample: TracedSample, out: Path) -> None:
    """Write ``sample`` to an NPZ file."""
    engine = sample.engine
    versions = np.array([engine.architecture, engine.python, engine.numpy, engine.onnxruntime])
    with out.open("wb") as stream:
        np.savez(
            stream, words=sample.words, noise=sample.noise, z=sample.z, image=sample.image,
            pixels=sample.pixels, engine=versions,
        )  # fmt: skip


def load_sample(path: Path) -> TracedSample:
    """Read an NPZ file that ``save_sample`` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        engine = EngineVersions(*(str(version) for version in arrays["engine"]))
        return TracedSample(
            engine, arrays["words"], arrays["noise"], arrays["z"], arrays["image"], arrays["pixels"]
        )  # fmt: skip


def main(arguments: list[str]) -> None:
    """Generate and save a sample; an error is one line on stderr."""
    bundle, prompt, seed, out = arguments
    try:
        save_sample(trace_sample(Path(bundle), prompt, int(seed)), Path(out))
    except MicroForgeError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main(sys.argv[1:])
