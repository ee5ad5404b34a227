"""Planner and backbone as the one network that a sampling step evaluates and a phone runs.

z, t, text, mask, pooled, plan, has_plan -> velocity, next plan
"""

from __future__ import annotations

from torch import Tensor, nn

from microforge.backbone import MicroForgeBackbone
from microforge.planner import RecurrentLatentPlanner
from microforge.spec import ModelSpec


class Denoiser(nn.Module):
    """One step: update the plan from the latent, then predict the velocity with it."""

    def __init__(self, backbone: MicroForgeBackbone, planner: RecurrentLatentPlanner) -> None:
        super().__init__()
        self.backbone, self.planner = backbone, planner

    def forward(
        self, z: Tensor, t: Tensor, text: Tensor, mask: Tensor, pooled: Tensor, plan: Tensor, has_plan: Tensor,
        source: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Velocity (B, C, h, w) and the plan to hand to the next step (B, K, D).

        Args:
            z: (B, C, h, w). t: (B,). text: (B, L, E). mask: (B, L). pooled: (B, E).
            plan: (B, K, D), ignored where ``has_plan`` (B,) is 0.
            source: (B, C, h, w) of an edit, or None.
        """
        next_plan = self.planner(z, t, pooled, plan, has_plan, source)
        return self.backbone(z, t, text, mask, pooled, next_plan, source), next_plan


def build_backbone(spec: ModelSpec) -> MicroForgeBackbone:
    return MicroForgeBackbone(spec.latent_channels, spec.backbone, spec.text_encoder.embed_dim)


def build_planner(spec: ModelSpec) -> RecurrentLatentPlanner:
    planner = spec.planner
    return RecurrentLatentPlanner(
        planner.num_plan_tokens, planner.dim, spec.text_encoder.embed_dim, spec.latent_channels,
        planner.depth, planner.heads, planner.ffn_expansion, planner.self_conditioning,
    )  # fmt: skip
