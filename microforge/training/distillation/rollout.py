"""Guided drawings of a teacher, kept point by point: what step distillation learns from (SPEC section 5).

All guidance branches of a step run as one batch, each with a plan state of its own; the figures are those of
``MicroForgePipeline``. Letters: B drawings, L text tokens, C h w latent channels, height and width, R branches,
K plan tokens, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from microforge.sampling import AfterStep, batch_time, euler_step, guided, guided_edit
from microforge.spec import SamplerSpec
from microforge.text_encoder import PAD_ID
from microforge.training.stages.flow import FlowNetwork


@dataclass(frozen=True)
class Prompts:
    """What is drawn: token ids (B, L), the empty prompt (L,) of the same task, and the latents of the sources.

    ``source`` is (B, C, h, w), or None for generate.
    """

    ids: Tensor
    empty: Tensor
    source: Tensor | None = None


@torch.no_grad()
def guided_points(
    network: FlowNetwork, prompts: Prompts, noise: Tensor, grid: Sequence[float], every: int, sampler: SamplerSpec,
    after_step: AfterStep | None = None, order: int = 1,
) -> Tensor:  # fmt: skip
    """Draw with guidance and keep the noise and every ``every``-th latent after it.

    Args:
        noise: (B, C, h, w). grid: times from 1.0 to 0.0.
        sampler: of who draws: its guidance scales, or that they are folded in.
        order: 1, Euler as the runtime steps; 2, Adams-Bashforth: the velocity is carried half a step on along the line
            through the last two, for no more evaluations (equal steps).
    Returns:
        (B, 1 + steps / every, C, h, w) float32
    """
    branch = _Branches(network, prompts, not sampler.guidance_distilled)
    z, points = noise, [noise]
    last: Tensor | None = None
    for index, (t, t_next) in enumerate(itertools.pairwise(grid), start=1):
        velocities = branch.velocities(z, t)
        if len(velocities) == 1:
            velocity = velocities[0]
        elif prompts.source is None:
            velocity = guided(velocities[0], velocities[1], sampler.text_guidance)
        else:
            scales = (sampler.text_guidance, sampler.image_guidance)
            velocity = guided_edit(velocities[0], velocities[1], velocities[2], *scales)
        ahead = velocity if last is None or order == 1 else 1.5 * velocity - 0.5 * last
        z, last = euler_step(z, ahead, t, t_next), velocity
        if after_step is not None:
            z = after_step(z, t_next)
        if index % every == 0:
            points.append(z)
    return torch.stack(points, 1)


class _Branches:
    """The prompt's branch and those that guidance contrasts it with, stacked along the batch."""

    def __init__(self, network: FlowNetwork, prompts: Prompts, guided: bool) -> None:
        """``guided``: with the branches to contrast with; without, the prompt's alone."""
        self.network, self.count = network, len(prompts.ids)
        empty = prompts.empty.expand_as(prompts.ids)
        parts = [prompts.ids, empty] if guided else [prompts.ids]
        self.source = prompts.source
        if guided and prompts.source is not None:
            parts.append(empty)
            self.source = torch.cat([prompts.source, prompts.source, torch.zeros_like(prompts.source)])
        ids = torch.cat(parts)  # (R B, L)
        self.branches = len(parts)
        self.mask = (ids != PAD_ID).float()
        self.text, self.pooled = network.text_encoder.encode(ids, self.mask)
        self.plan = network.denoiser.planner.empty(len(ids), ids.device)
        self.has_plan = torch.zeros(len(ids), device=ids.device)

    def velocities(self, z: Tensor, t: float) -> tuple[Tensor, ...]:
        """One velocity (B, C, h, w) per branch."""
        stacked = z.repeat(self.branches, 1, 1, 1)
        times = batch_time(t, len(stacked), z.device)
        velocity, plan = self.network.denoiser(
            stacked, times, self.text, self.mask, self.pooled, self.plan, self.has_plan, self.source
        )
        self.plan, self.has_plan = plan.float(), torch.ones_like(self.has_plan)
        return tuple(velocity.float().split(self.count))
