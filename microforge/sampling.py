"""Rectified flow (SPEC section 4): ``z_t = (1 - t) z_0 + t eps``, velocity ``v = eps - z_0``.

t runs from 1 (noise) to 0 (image), so an Euler step *adds* ``(t_next - t) v`` with a negative factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: Reports (step, steps, latent after the step) while an image is sampled.
StepCallback = Callable[[int, int, Tensor], None]
#: (latent after a step, its time) -> the latent to go on with.
AfterStep = Callable[[Tensor, float], Tensor]


def uniform_grid(steps: int) -> tuple[float, ...]:
    """``steps`` + 1 times from 1.0 down to 0.0."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; allowed: 1 or more")
    return (*(1.0 - i / steps for i in range(steps)), 0.0)


def interpolate(z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """z_t of clean latents (B, C, h, w) at times t (B,)."""
    t = t.reshape(-1, 1, 1, 1)
    return (1.0 - t) * z0 + t * noise


def velocity_target(z0: Tensor, noise: Tensor) -> Tensor:
    return noise - z0


def shifted_time(t: Tensor, shift: float) -> Tensor:
    """Times (B,) in [0, 1] moved towards noise, ``s t / (1 + (s - 1) t)`` (arXiv 2403.03206, equation 23); 1 moves none."""
    return shift * t / (1.0 + (shift - 1.0) * t)


#: The mean of ``loss_weight`` over t in [0, 1].
MEAN_LOSS_WEIGHT = math.log(2.0)


def loss_weight(t: Tensor) -> Tensor:
    """w(t) = 1 / (1 + |2t - 1|), largest in the middle where the velocity is hardest."""
    return 1.0 / (1.0 + (2.0 * t - 1.0).abs())


def euler_step(z: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
    """From time ``t`` to ``t_next`` along ``velocity``."""
    return z + (t_next - t) * velocity


def guided(conditional: Tensor, empty: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: ``v_empty + s (v_c - v_empty)``; 1 is off."""
    return empty + scale * (conditional - empty)


def guided_edit(full: Tensor, source_only: Tensor, empty: Tensor, text: float, image: float) -> Tensor:
    """Three-way guidance of an edit (InstructPix2Pix, arXiv 2211.09800)."""
    return empty + image * (source_only - empty) + text * (full - source_only)


def integrate(
    velocity: Callable[[Tensor, float], Tensor],
    z: Tensor,
    timesteps: Sequence[float],
    callback: StepCallback | None = None,
    after_step: AfterStep | None = None,
) -> Tensor:
    """Euler integration of ``velocity(z, t)`` over ``timesteps`` (1.0 ... 0.0).

    ``after_step(z, t_next)`` may replace the latent after each step (inpainting blends there).
    """
    steps = len(timesteps) - 1
    for index in range(steps):
        t, t_next = timesteps[index], timesteps[index + 1]
        z = euler_step(z, velocity(z, t), t, t_next)
        if after_step is not None:
            z = after_step(z, t_next)
        if callback is not None:
            callback(index + 1, steps, z)
    return z


def batch_time(t: float, batch: int, device: torch.device) -> Tensor:
    """The scalar time as the (B,) float32 tensor that the networks take."""
    return torch.full((batch,), t, dtype=torch.float32, device=device)
