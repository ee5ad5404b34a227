"""The denoiser: planner and backbone as the one network that a sampling step evaluates.

z, t, text, mask, pooled, plan, has_plan -> velocity, next plan
"""

from __future__ import annotations

from torch import Tensor, nn

from microforge.backbone import MicroForgeBackbone
from microforge.planner import RecurrentLatentPlanner
from microforge.spec import ModelSpec


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
