"""The sampling rules as pure functions of numpy arrays (SPEC section 4); the same in every language.

t runs from 1 (noise) to 0 (image), so an Euler step adds ``(t_next - t) v`` with a negative factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.manifest import Latent, Sampler
from microforge.errors import BundleError, GenerationError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """What one sampling step did.

    ``z`` (1, C, h, w) is the latent after the step, ``velocity`` the guided one that led there, ``plan``
    (1, K, D) the plan after the step on the prompt's branch, or None when the denoiser has none.
    """

    index: int  # 1 for the first step
    steps: int
    t: float
    t_next: float
    z: Floats
    velocity: Floats
    plan: Floats | None


StepCallback = Callable[[Step], None]
#: (latent after a step, its time) -> the latent to go on with.
AfterStep = Callable[[Floats, float], Floats]


def euler_step(z: Floats, velocity: Floats, t: float, t_next: float) -> Floats:
    """From time ``t`` to ``t_next``: the difference in double, then rounded once to float32."""
    return z + np.float32(t_next - t) * velocity


def guided_velocity(conditional: Floats, empty: Floats, scale: float) -> Floats:
    """Classifier-free guidance, ``v_empty + s (v_c - v_empty)``; s = 1 gives ``conditional``."""
    return empty + np.float32(scale) * (conditional - empty)


def guided_edit_velocity(
    full: Floats, source_only: Floats, empty: Floats, text: float, image: float
) -> Floats:
    """Three-way guidance of a drawing with a source (InstructPix2Pix, arXiv 2211.09800); 1 and 1 give ``full``."""
    steered: Floats = (
        empty + np.float32(image) * (source_only - empty) + np.float32(text) * (full - source_only)
    )
    return steered


def text_scale(sampler: Sampler) -> float:
    """The guidance scale of the text, 1 when guidance is folded into the weights."""
    return 1.0 if sampler.guidance == "folded" else sampler.guidance.text


def image_scale(sampler: Sampler) -> float:
    """The guidance scale of the source, 1 when guidance is folded into the weights."""
    return 1.0 if sampler.guidance == "folded" else sampler.guidance.image


def allowed_steps(sampler: Sampler) -> tuple[int, ...]:
    """Step counts that the bundle can run, falling: its own, and its divisors unless the grid was distilled."""
    own = sampler.steps
    return tuple(n for n in range(own, 0, -1) if n == own or (sampler.guidance != "folded" and own % n == 0))


def timesteps(sampler: Sampler, steps: int | None = None) -> tuple[float, ...]:
    """The times of a drawing in ``steps`` steps: the bundle's grid, or every k-th time of it.

    Raises:
        BundleError: for a count that the bundle cannot run; lists those that it can.
    """
    own = sampler.steps
    if steps is None or steps == own:
        return sampler.timesteps
    allowed = allowed_steps(sampler)
    if steps not in allowed:
        raise BundleError(f"steps is {steps}; this bundle allows: {', '.join(map(str, allowed))}")
    return sampler.timesteps[:: own // steps]


def denormalize(z: Floats, latent: Latent) -> Floats:
    """The decoder's latent, ``z * std + mean`` per channel."""
    shape = (1, -1, 1, 1)
    mean, std = np.asarray(latent.mean, np.float32), np.asarray(latent.std, np.float32)
    return z * std.reshape(shape) + mean.reshape(shape)


def normalize(latent: Floats, entry: Latent) -> Floats:
    """The denoiser's latent of an encoder's, ``(latent - mean) / std`` per channel."""
    shape = (1, -1, 1, 1)
    mean, std = np.asarray(entry.mean, np.float32), np.asarray(entry.std, np.float32)
    return (latent - mean.reshape(shape)) / std.reshape(shape)


def to_pixels(image: Floats) -> NDArray[np.uint8]:
    """(1, 3, H, W) in [0, 1] to (H, W, 3) bytes, rounded to the nearest.

    Raises:
        GenerationError: when the image holds NaN or infinity: clipped, it would be black without a word.
    """
    if not np.isfinite(image).all():
        count = int((~np.isfinite(image)).sum())
        raise GenerationError(
            f"the model gave {count} of {image.size} values that are not finite (NaN or infinity); no image is written: "
            "its weights are damaged or overflow, use another build or checkpoint"
        )
    pixels: NDArray[np.uint8] = np.rint(np.clip(image[0], 0.0, 1.0) * np.float32(255.0)).astype(np.uint8)
    return pixels.transpose(1, 2, 0)


def from_pixels(pixels: NDArray[np.uint8]) -> Floats:
    """(H, W, 3) bytes as float32 (1, 3, H, W) in [0, 1]."""
    image: Floats = pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255.0)
    return image
