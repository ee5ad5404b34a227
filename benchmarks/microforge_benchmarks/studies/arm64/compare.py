"""Differences between samples of one bundle on two engines, and their limits.

On Arm, ONNX Runtime has other kernels (NEON instead of AVX), numpy calls another C library, and sums have another order.
The seed must give the same noise all the same, and the prompt the same image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.targets import Precision
from microforge.errors import ParityError
from microforge_benchmarks.studies.arm64.traced_sample import EngineVersions, TracedSample
from microforge_runtimes.sampler import Floats

FORMAT = 2
#: Precision of the bundle -> smallest allowed PSNR of the image in dB. INT8 kernels round and saturate differently, even
#: between versions of the engine on x86-64, so the limit for int8 detects broken images only.
MIN_IMAGE_DB: Mapping[Precision, float] = {"fp32": 60.0, "int8": 24.0}
#: Largest allowed difference of the noise: logarithm and cosine of Box-Muller come from the C library.
MAX_NOISE_ULP = 1


@dataclass(frozen=True)
class SampleDifference:
    """Difference of a sample from the reference; a PSNR is None where all bits are equal.

    Attributes:
        words_equal: whether all Philox words are equal.
        noise_ulp: largest difference of the initial latents, in float32 steps.
        latent_db: PSNR of the final latents, relative to the largest value of the reference.
        latent_max: largest difference of the final latents.
        image_db: PSNR of the decoder's output in [0, 1].
        pixels_max: largest difference of the uint8 pixels.
        pixels_changed: share of uint8 values that differ.
    """

    words_equal: bool
    noise_ulp: int
    latent_db: float | None
    latent_max: float
    image_db: float | None
    pixels_max: int
    pixels_changed: float

    def passes(self, least_db: float) -> bool:
        """Whether the noise is equal and the PSNR of the image is at least ``least_db``."""
        close = self.image_db is None or self.image_db >= least_db
        return self.words_equal and self.noise_ulp <= MAX_NOISE_ULP and close


@dataclass(frozen=True)
class EngineComparison:
    """Comparison of one bundle on two engines.

    Attributes:
        model: name of the model.
        checkpoint_sha256: checkpoint that the bundle was built from.
        bundle: id of the bundle.
        precision: precision of the bundle.
        size: (height, width) in pixels.
        steps: sampling steps.
        prompt: the prompt.
        seed: the seed.
        tested_engine: engine under test.
        reference_engine: engine of the reference.
        difference: difference of the two samples.
        least_db: smallest allowed PSNR of the image in dB.
        passed: whether the difference is within its limits.
    """

    model: str
    checkpoint_sha256: str
    bundle: str
    precision: Precision
    size: tuple[int, int]
    steps: int
    prompt: str
    seed: int
    tested_engine: EngineVersions
    reference_engine: EngineVersions
    difference: SampleDifference
    least_db: float
    passed: bool


@dataclass(frozen=True)
class Arm64Report:
    """All comparisons, and the emulator; times are left out, because those of an emulator have no meaning."""

    format: int
    emulator: str
    processor: str
    comparisons: tuple[EngineComparison, ...]

    @property
    def passed(self) -> bool:
        """Whether all comparisons passed."""
        return all(item.passed for item in self.comparisons)


def sample_difference(sample: TracedSample, reference: TracedSample) -> SampleDifference:
    """Compare ``sample`` with ``reference``.

    Raises:
        ParityError: when they have different shapes, or ``sample`` has values that are not finite.
    """
    where = f"{sample.engine.architecture}, ONNX Runtime {sample.engine.onnxruntime}"
    for name in ("words", "noise", "z", "image", "pixels"):
        values, expected = getattr(sample, name), getattr(reference, name)
        if values.shape != expected.shape:
            raise ParityError(f"{name} has shape {values.shape} on {where}, the reference {expected.shape}")
        if not np.isfinite(values).all():
            raise ParityError(f"{name} has values that are not finite on {where}")
    steps = np.abs(sample.pixels.astype(np.int16) - reference.pixels)
    return SampleDifference(
        words_equal=bool(np.array_equal(sample.words, reference.words)),
        noise_ulp=float_steps(sample.noise, reference.noise),
        latent_db=psnr_db(sample.z, reference.z, float(np.abs(reference.z).max()) or 1.0),
        latent_max=float(f"{np.abs(sample.z - reference.z).max():.4g}"),
        image_db=psnr_db(sample.image, reference.image, 1.0),
        pixels_max=int(steps.max()),
        pixels_changed=round(float((steps > 0).mean()), 6),
    )


def psnr_db(values: Floats, reference: Floats, peak: float) -> float | None:
    """PSNR in dB relative to ``peak`` > 0, with two decimals; None where ``values`` equal ``reference``."""
    error = math.sqrt(float(np.mean(np.square(values.astype(np.float64) - reference))))
    return None if error == 0.0 else round(20.0 * math.log10(peak / error), 2)


def float_steps(values: Floats, reference: Floats) -> int:
    """Largest distance between corresponding elements, in float32 steps; 0 where all are equal."""
    return int(np.abs(_order(values) - _order(reference)).max())


def _order(values: Floats) -> NDArray[np.int64]:
    """Index of each value in the order of all float32 values: their bits are sign and magnitude."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
