"""The recurrent latent planner: K plan tokens that are carried from sampling step to sampling step (RIN, arXiv 2212.11972).

    latent (B, C, h, w), t, pooled text, previous plan -> plan (B, K, D)

Each step starts from ``sigmoid(w) LN(previous) + (1 - sigmoid(w)) initial(text)`` (self-conditioning),
reads the latent by cross-attention and mixes plan tokens by self-attention; the backbone then reads the
plan. The plan is a graph input and output of the exported denoiser.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microforge.layers import Attention, FeedForward, position_features, run_block, time_features
from microforge.spec import PlannerSpec


class PlannerLayer(nn.Module):
    """Cross-attention to the latent (read), self-attention (reason) and a feed-forward: 14 D^2 parameters."""

    def __init__(self, dim: int, heads: int, ffn_expansion: int) -> None:
        super().__init__()
        self.read_norm, self.reason_norm, self.ffn_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.read = Attention(dim, heads)
        self.reason = Attention(dim, heads)
        self.ffn = FeedForward(dim, ffn_expansion)

    def forward(self, plan: Tensor, tokens: Tensor) -> Tensor:
        """Plan tokens (B, K, D) and latent tokens (B, N, D) to plan tokens (B, K, D)."""
        plan = plan + self.read(self.read_norm(plan), tokens)  # (B, K, D)
        normed = self.reason_norm(plan)
        plan = plan + self.reason(normed, normed)  # (B, K, D)
        result: Tensor = plan + self.ffn(self.ffn_norm(plan))
        return result


class RecurrentLatentPlanner(nn.Module):
    """The network that updates the plan before each evaluation of the backbone.

    Args:
        num_plan_tokens: K.
        dim: D, the width of the backbone.
        text_dim: E, the width of the text encoder.
        latent_channels: C.
        depth: layers.
        heads: attention heads.
        ffn_expansion: width of the feed-forward in multiples of D.
        self_conditioning: whether the previous plan is used (ablation A5: it is not).
    """

    checkpoint_blocks = False  # gradient checkpointing, switched on by training

    def __init__(
        self, num_plan_tokens: int = 32, dim: int = 256, text_dim: int = 768, latent_channels: int = 16,
        depth: int = 4, heads: int = 4, ffn_expansion: int = 3, self_conditioning: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.spec = PlannerSpec(depth, dim, num_plan_tokens, heads, ffn_expansion, self_conditioning)
        self.num_plan_tokens, self.dim, self.self_conditioning = num_plan_tokens, dim, self_conditioning
        self.queries = nn.Parameter(torch.randn(1, num_plan_tokens, dim))
        self.from_text = nn.Linear(text_dim, dim)
        self.from_time = nn.Linear(dim, dim)
        self.latent_in = nn.Linear(latent_channels, dim)
        self.latent_norm = nn.LayerNorm(dim)
        self.previous_norm = nn.LayerNorm(dim)
        self.carry = nn.Parameter(torch.zeros(1, 1, dim))  # w of SPEC section 3
        self.layers = nn.ModuleList(PlannerLayer(dim, heads, ffn_expansion) for _ in range(depth))
        self.out_norm = nn.LayerNorm(dim)

    def initial(self, pooled: Tensor) -> Tensor:
        """The initial plan (B, K, D) of pooled text (B, E)."""
        return self.queries + self.from_text(pooled).unsqueeze(1)  # type: ignore[no-any-return]

    def empty(self, batch: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """The plan input of the first step, zeros (B, K, D), which belongs to ``has_plan`` = 0."""
        return torch.zeros(batch, self.num_plan_tokens, self.dim, device=device, dtype=dtype)

    def forward(
        self, z: Tensor, t: Tensor, pooled: Tensor, previous: Tensor, has_plan: Tensor,
        source: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Update the plan.

        Args:
            z: normalised latent (B, C, h, w).
            t: flow time (B,).
            pooled: pooled text (B, E).
            previous: plan of the previous step (B, K, D).
            has_plan: (B,), 0 on the first step, then 1.
            source: clean normalised source latent (B, C, h, w) of an edit, or None.

        Returns:
            (B, K, D)
        """
        height, width = z.shape[-2:]
        grid = z if source is None else torch.cat([z, source], -1)  # (B, C, h, w * halves)
        tokens = self.latent_in(grid.flatten(2).transpose(1, 2))  # (B, N, D)
        halves = 1 if source is None else 2
        tokens = tokens + position_features(height, width, self.dim, halves, z.device).to(tokens.dtype)
        tokens = self.latent_norm(tokens)
        initial = self.initial(pooled)  # (B, K, D)
        if self.self_conditioning:
            weight = torch.sigmoid(self.carry) * has_plan.reshape(-1, 1, 1)  # (B, 1, D)
            plan = weight * self.previous_norm(previous) + (1.0 - weight) * initial
        else:
            plan = initial
        plan = plan + self.from_time(time_features(t, self.dim).to(plan.dtype)).unsqueeze(1)
        for layer in self.layers:
            plan = run_block(layer, self.checkpoint_blocks, plan, tokens)
        return self.out_norm(plan)  # type: ignore[no-any-return]


def plan_similarity(plan: Tensor) -> Tensor:
    """Mean squared cosine between different plan tokens of (B, K, D): the diversity loss, a scalar."""
    unit = F.normalize(plan.float(), dim=-1)
    gram = torch.bmm(unit, unit.transpose(1, 2))
    count = plan.shape[1]
    off_diagonal = gram.square().sum((1, 2)) - count  # the diagonal is all ones
    return (off_diagonal / max(count * (count - 1), 1)).mean()


def plan_cosine(plan: Tensor) -> Tensor:
    """Mean cosine between different plan tokens of (B, K, D): near 1 means a collapsed planner."""
    unit = F.normalize(plan.float(), dim=-1)
    count = plan.shape[1]
    total = unit.sum(1).square().sum(-1) - count
    return (total / max(count * (count - 1), 1)).mean()
