"""Is a bundle's drawing the same on 64-bit Arm as on x86-64? Typed differences of drawings, and their limits.

Arm has other kernels in ONNX Runtime (NEON instead of AVX), another C library's mathematics under numpy, and
another order of sums; the seed must give the same noise all the same, and the prompt the same image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.targets import Precision
from microforge.errors import ParityError
from microforge_benchmarks.studies.arm64.draw import Drawing, Engine
from microforge_runtimes.sampler import Floats

FORMAT = 1
#: Least PSNR of the image in dB, by the bundle's precision. INT8 kernels may round and saturate differently, on
#: x86-64 too from one version of the engine to the next; there the limit only catches broken images.
LEAST_IMAGE_DB: Mapping[Precision, float] = {"fp32": 60.0, "int8": 24.0}
#: Box-Muller's logarithm and cosine come from the C library; tests/fixtures/noise.json allows every language this.
MOST_NOISE_ULP = 1


@dataclass(frozen=True)
class Difference:
    """How far a drawing is from the reference.

    ``words_equal``: all Philox words; ``noise_ulp``: largest distance of the initial latents in float32 steps;
    ``latent_*``: of the final normalised latents, the PSNR over the reference's largest value; ``image_db``: of the
    decoder's floats, over a range of 1; ``pixels_max``: of 255, ``pixels_changed``: the share of bytes that differ.
    A PSNR is None where all bits are equal.
    """

    words_equal: bool
    noise_ulp: int
    latent_db: float | None
    latent_max: float
    image_db: float | None
    pixels_max: int
    pixels_changed: float

    def passes(self, least_db: float) -> bool:
        """Whether the noise is the same and the image is close enough."""
        close = self.image_db is None or self.image_db >= least_db
        return self.words_equal and self.noise_ulp <= MOST_NOISE_ULP and close


@dataclass(frozen=True)
class Comparison:
    """One bundle drawn by two engines; ``bundle`` is its id, ``size`` (height, width) in pixels."""

    model: str
    checkpoint_sha256: str
    bundle: str
    precision: Precision
    size: tuple[int, int]
    steps: int
    prompt: str
    seed: int
    subject: Engine
    reference: Engine
    difference: Difference
    least_db: float
    passed: bool


@dataclass(frozen=True)
class Report:
    """All comparisons, and what ran the foreign code; no times, since an emulator's are no speed."""

    format: int
    emulator: str
    processor: str
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        return all(item.passed for item in self.comparisons)


def compare(subject: Drawing, reference: Drawing) -> Difference:
    """Measure ``subject`` against ``reference``.

    Raises:
        ParityError: when they have different shapes, or ``subject`` is not finite.
    """
    where = f"{subject.engine.architecture}, ONNX Runtime {subject.engine.onnxruntime}"
    for name in ("words", "noise", "z", "image", "pixels"):
        ours, theirs = getattr(subject, name), getattr(reference, name)
        if ours.shape != theirs.shape:
            raise ParityError(f"{name} has shape {ours.shape} on {where}, the reference {theirs.shape}")
        if not np.isfinite(ours).all():
            raise ParityError(f"{name} has values that are not finite on {where}")
    steps = np.abs(subject.pixels.astype(np.int16) - reference.pixels)
    return Difference(
        words_equal=bool(np.array_equal(subject.words, reference.words)),
        noise_ulp=float_steps(subject.noise, reference.noise),
        latent_db=psnr_db(subject.z, reference.z, float(np.abs(reference.z).max()) or 1.0),
        latent_max=float(f"{np.abs(subject.z - reference.z).max():.4g}"),
        image_db=psnr_db(subject.image, reference.image, 1.0),
        pixels_max=int(steps.max()),
        pixels_changed=round(float((steps > 0).mean()), 6),
    )


def psnr_db(values: Floats, reference: Floats, peak: float) -> float | None:
    """Peak signal-to-noise ratio in dB, two decimals, over ``peak`` > 0; None where ``values`` equal ``reference``."""
    error = math.sqrt(float(np.mean(np.square(values.astype(np.float64) - reference))))
    return None if error == 0.0 else round(20.0 * math.log10(peak / error), 2)


def float_steps(values: Floats, reference: Floats) -> int:
    """Largest number of float32 values that lie between an element and its counterpart, 0 where all are equal."""
    return int(np.abs(_order(values) - _order(reference)).max())


def _order(values: Floats) -> NDArray[np.int64]:
    """Place of each float32 in the order of all: a float's bits are sign and magnitude, so negative ones count down."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
