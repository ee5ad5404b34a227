"""The denoiser: planner and backbone as the one network that a sampling step evaluates.

z, t, text, mask, pooled, plan, has_plan -> velocity, next plan
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from microforge.backbone import MicroForgeBackbone
from microforge.errors import SpecError
from microforge.planner import RecurrentLatentPlanner
from microforge.sampling import batch_time
from microforge.spec import ModelSpec, TextEncoderSpec
from microforge.text_encoder import Conditioning, TextEncoder
from microforge.vae import MicroForgeVAE


class Denoiser(nn.Module):
    """Updates the plan from the latent, then predicts the velocity with it."""

    def __init__(self, backbone: MicroForgeBackbone, planner: RecurrentLatentPlanner) -> None:
        super().__init__()
        self.backbone, self.planner = backbone, planner

    def forward(
        self, z: Tensor, t: Tensor, text: Tensor, mask: Tensor, pooled: Tensor, plan: Tensor, has_plan: Tensor,
        source: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Evaluate the denoiser once.

        Args:
            z: normalised latent (B, C, h, w).
            t: flow time (B,) in [0, 1], 1 is noise.
            text: text tokens (B, L, E).
            mask: (B, L), 1 for tokens and 0 for padding.
            pooled: pooled text (B, E).
            plan: plan of the previous step (B, K, D); ignored where ``has_plan`` is 0.
            has_plan: (B,), 0 on the first step, then 1.
            source: clean normalised source latent (B, C, h, w) of an edit, or None.

        Returns:
            The velocity (B, C, h, w) and the plan (B, K, D), an input of the next step.
        """
        next_plan = self.planner(z, t, pooled, plan, has_plan, source)
        return self.backbone(z, t, text, mask, pooled, next_plan, source), next_plan


def build_backbone(spec: ModelSpec) -> MicroForgeBackbone:
    """The backbone of a configuration with random weights."""
    return MicroForgeBackbone(spec.latent_channels, spec.backbone, spec.text_encoder.embed_dim)


def build_planner(spec: ModelSpec) -> RecurrentLatentPlanner:
    """The planner of a configuration with random weights."""
    planner = spec.planner
    return RecurrentLatentPlanner(
        planner.num_plan_tokens, planner.dim, spec.text_encoder.embed_dim, spec.latent_channels,
        planner.depth, planner.heads, planner.ffn_expansion, planner.self_conditioning,
    )  # fmt: skip


def branch_velocity(
    denoiser: Denoiser, text: Conditioning, source: Tensor | None
) -> Callable[[Tensor, float], Tensor]:
    """The velocity (z, t) -> (B, C, h, w) of one guidance branch; it carries its plan state from step to step."""
    batch, device = text.text.shape[0], text.text.device
    plan = denoiser.planner.empty(batch, device, text.text.dtype)
    has_plan = torch.zeros(batch, device=device)

    def velocity(z: Tensor, t: float) -> Tensor:
        nonlocal plan, has_plan
        times = batch_time(t, batch, z.device)
        result, plan = denoiser(z, times, text.text, text.mask, text.pooled, plan, has_plan, source)
        has_plan = torch.ones_like(has_plan)
        return result  # type: ignore[no-any-return]

    return velocity


def describe_modules(
    vae: MicroForgeVAE, backbone: MicroForgeBackbone, text_encoder: TextEncoder, planner: RecurrentLatentPlanner
) -> ModelSpec:  # fmt: skip
    """The ModelSpec of modules that were built one by one, as in the Quick Start."""
    text_spec = getattr(text_encoder, "spec", None)
    if not isinstance(text_spec, TextEncoderSpec):
        raise SpecError("pass spec=... with a text encoder that has no TextEncoderSpec as its spec")
    return ModelSpec("custom", vae.spec, backbone.spec, planner.spec, text_spec)
