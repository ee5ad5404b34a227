"""Trajectories of a teacher with guidance: what step distillation learns from (SPEC section 5).

All guidance branches of a step run as one batch, each with its own plan state; the numbers equal those of
``MicroForgePipeline``. Letters: B samples, L text tokens, C h w latent channels, height and width, R branches, K plan tokens,
D width.
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
from microforge.training.stages.flow_network import FlowNetwork


@dataclass(frozen=True)
class RolloutInputs:
    """What a rollout is conditioned on: token ids (B, L), the empty prompt (L,) of the same task, and source latents.

    ``source`` is (B, C, h, w), or None for generate.
    """

    ids: Tensor
    empty: Tensor
    source: Tensor | None = None


@dataclass(frozen=True)
class RolloutGrid:
    """The times of a rollout and its solver.

    ``times`` run from 1.0 to 0.0; every ``every``-th latent is kept. ``order`` 1 is Euler, as in the runtime; 2 is
    Adams-Bashforth, which extrapolates from the last two velocities at no extra evaluation (equal steps).
    """

    times: Sequence[float]
    every: int
    order: int = 1


@torch.no_grad()
def guided_rollout(
    network: FlowNetwork,
    inputs: RolloutInputs,
    noise: Tensor,
    grid: RolloutGrid,
    sampler: SamplerSpec,
    after_step: AfterStep | None = None,
) -> Tensor:
    """Sample with guidance and return the noise and every ``grid.every``-th latent after it.

    Args:
        network: Frozen.
        inputs: What is sampled.
        noise: (B, C, h, w).
        grid: Times and solver.
        sampler: Guidance scales of the network, or that it is guidance-distilled.
        after_step: Changes the latent after each step.

    Returns:
        (B, 1 + steps / every, C, h, w) float32.
    """
    branches = _Branches(network, inputs, not sampler.guidance_distilled)
    z, points = noise, [noise]
    previous: Tensor | None = None
    for index, (t, t_next) in enumerate(itertools.pairwise(grid.times), start=1):
        velocity = _guided(branches.velocities(z, t), sampler, inputs.source is not None)
        multistep = previous is not None and grid.order == 2
        direction = 1.5 * velocity - 0.5 * previous if multistep and previous is not None else velocity
        z, previous = euler_step(z, direction, t, t_next), velocity
        if after_step is not None:
            z = after_step(z, t_next)
        if index % grid.every == 0:
            points.append(z)
    return torch.stack(points, 1)


def _guided(velocities: tuple[Tensor, ...], sampler: SamplerSpec, with_source: bool) -> Tensor:
    """The guided velocity (B, C, h, w) of one, two or three branches."""
    if len(velocities) == 1:
        return velocities[0]
    if not with_source:
        return guided(velocities[0], velocities[1], sampler.text_guidance)
    scales = (sampler.text_guidance, sampler.image_guidance)
    return guided_edit(velocities[0], velocities[1], velocities[2], *scales)


class _Branches:
    """The branch of the prompt and those that guidance contrasts with it, stacked along the batch."""

    def __init__(self, network: FlowNetwork, inputs: RolloutInputs, guided: bool) -> None:
        """Encode the prompts; ``guided``: with the branches to contrast with."""
        self.network, self.count = network, len(inputs.ids)
        empty = inputs.empty.expand_as(inputs.ids)
        parts = [inputs.ids, empty] if guided else [inputs.ids]
        self.source = inputs.source
        if guided and inputs.source is not None:
            parts.append(empty)
            self.source = torch.cat([inputs.source, inputs.source, torch.zeros_like(inputs.source)])
        ids = torch.cat(parts)  # (R B, L)
        self.branches = len(parts)
        self.mask = (ids != PAD_ID).float()
        self.text, self.pooled = network.text_encoder.encode(ids, self.mask)
        self.plan = network.denoiser.planner.empty(len(ids), ids.device)  # (R B, K, D)
        self.has_plan = torch.zeros(len(ids), device=ids.device)

    def velocities(self, z: Tensor, t: float) -> tuple[Tensor, ...]:
        """One velocity (B, C, h, w) per branch; updates the plan states."""
        stacked = z.repeat(self.branches, 1, 1, 1)
        times = batch_time(t, len(stacked), z.device)
        velocity, plan = self.network.denoiser(
            stacked, times, self.text, self.mask, self.pooled, self.plan, self.has_plan, self.source
        )
        self.plan, self.has_plan = plan.float(), torch.ones_like(self.has_plan)
        return tuple(velocity.float().split(self.count))
