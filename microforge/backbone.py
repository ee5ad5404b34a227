"""The denoiser's backbone: bidirectional SSM, depth-wise convolution, cross-attention, feed-forward.

    z (B, C, h, w), t, text, plan -> velocity (B, C, h, w)

In each block, grouped AdaLN of (time + pooled text) modulates a BiSSM mixer, a cross-attention to
[text | plan] and a feed-forward. One shared MQA block follows every ``attn_every`` blocks (DiMSUM,
arXiv 2411.04168). With ``source``, the clean source latent is concatenated to the right of z (SPEC section 6)
and only the left half of the output is returned: editing adds no parameters. With ``aligned_source``, every
token of z also receives the source token at its own position (decision 0004).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microforge import ssm
from microforge.layers import Attention, FeedForward, mask_bias, position_features, run_block, time_features
from microforge.spec import BackboneSpec, preset


class BiSSM(nn.Module):
    """Gated bidirectional SSM mixer with a depth-wise conv inside (LiT, arXiv 2501.12976): 3 D^2."""

    def __init__(self, spec: BackboneSpec, path: int) -> None:
        super().__init__()
        dim, state = spec.dim, spec.state_dim
        self.spec, self.path, self.heads = spec, path, dim // spec.head_dim
        self.inner = nn.Linear(dim, dim)
        self.gate = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.conv = nn.Conv2d(dim, dim, spec.conv_kernel, padding=spec.conv_kernel // 2, groups=dim)
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.decay_f, self.decay_b = nn.Linear(dim, self.heads), nn.Linear(dim, self.heads)
        self.b_f, self.b_b = nn.Linear(dim, state), nn.Linear(dim, state)
        self.c_f, self.c_b = nn.Linear(dim, state), nn.Linear(dim, state)
        self.skip = nn.Parameter(torch.ones(1, self.heads, 1, 1))  # D of the recurrence

    def _direction(self, x: Tensor, decay: nn.Linear, b: nn.Linear, c: nn.Linear) -> ssm.Direction:
        """The decays, inputs and outputs of one scan direction from tokens (B, N, D)."""
        dtype = _accumulation_dtype(x)
        log_decay = -self.spec.max_decay * torch.sigmoid(decay(x).float())
        return ssm.Direction(log_decay.transpose(1, 2).to(dtype), b(x).to(dtype), c(x).to(dtype))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Mix tokens (B, N, D) of a grid with N = ``height`` * ``width``; returns (B, N, D)."""
        batch, tokens, dim = x.shape
        inner = self.inner(x)  # (B, N, D)
        if self.spec.use_conv:
            grid = inner.transpose(1, 2).reshape(batch, dim, height, width)  # (B, D, height, width)
            inner = inner + self.conv(grid).reshape(batch, dim, tokens).transpose(1, 2)
        inner = F.silu(inner)
        forward = self._direction(inner, self.decay_f, self.b_f, self.c_f)
        backward = self._direction(inner, self.decay_b, self.b_b, self.c_b)
        heads = inner.reshape(batch, tokens, self.heads, -1).transpose(1, 2)  # (B, heads, N, P)
        if tokens <= self.spec.dense_limit:
            mixed = ssm.dense(heads, forward, backward, self.path, height, width)
        else:
            mixed = ssm.chunked(heads, forward, backward, self.path, height, width, self.spec.chunk)
        mixed = (mixed + self.skip * heads).transpose(1, 2).reshape(batch, tokens, dim)  # (B, N, D)
        return self.out(self.norm(mixed * F.silu(self.gate(x))))  # type: ignore[no-any-return]


def _accumulation_dtype(x: Tensor) -> torch.dtype:
    """float32 for decays and states under bfloat16 training; elsewhere the dtype of ``x``."""
    return torch.float32 if x.dtype == torch.bfloat16 else x.dtype


class AttentionMixer(nn.Module):
    """Full self-attention instead of the BiSSM (ablation A2)."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.attention = Attention(spec.dim, spec.cross_heads)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Mix tokens (B, N, D); returns (B, N, D)."""
        return self.attention(x, x)  # type: ignore[no-any-return]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of ``x`` (B, N, D) without parameters, then ``(1 + scale) x + shift`` with (B, 1, D) vectors."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1.0 + scale) + shift


class Block(nn.Module):
    """Mixer, cross-attention and feed-forward; each takes shift, scale and gate from nine AdaLN vectors."""

    def __init__(self, spec: BackboneSpec, index: int) -> None:
        super().__init__()
        self.mixer: nn.Module = BiSSM(spec, index % spec.scan_paths) if spec.use_ssm else AttentionMixer(spec)
        self.cross = Attention(spec.dim, spec.cross_heads)
        self.ffn = FeedForward(spec.dim, spec.ffn_expansion)
        self.table = nn.Parameter(torch.zeros(1, 9, spec.dim))

    def forward(
        self, x: Tensor, modulation: Tensor, context: Tensor, bias: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """One block.

        Args:
            x: tokens (B, N, D).
            modulation: the group's AdaLN vectors (B, 9, D).
            context: text and plan tokens (B, L + K, D).
            bias: additive padding bias of the context (B, L + K).
            grid: height and width of the tokens, N = height * width.

        Returns:
            (B, N, D)
        """
        vectors = (modulation + self.table).unsqueeze(2)  # (B, 9, 1, D)
        x = x + vectors[:, 2] * self.mixer(modulate(x, vectors[:, 0], vectors[:, 1]), *grid)
        x = x + vectors[:, 5] * self.cross(modulate(x, vectors[:, 3], vectors[:, 4]), context, bias)
        result: Tensor = x + vectors[:, 8] * self.ffn(modulate(x, vectors[:, 6], vectors[:, 7]))
        return result


class MicroForgeBackbone(nn.Module):
    """The network that predicts velocities.

    Args:
        latent_channels: C.
        config: a preset name, or a ``BackboneSpec``.
        text_dim: E, the width of the text encoder.
    """

    checkpoint_blocks = False  # gradient checkpointing, switched on by training

    def __init__(
        self, latent_channels: int = 16, config: str | BackboneSpec = "tiny", text_dim: int = 768
    ) -> None:
        super().__init__()
        spec = preset(config).backbone if isinstance(config, str) else config
        self.spec, self.latent_channels = spec, latent_channels
        dim = spec.dim
        self.patch_in = nn.Linear(latent_channels, dim)
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.pooled = nn.Linear(text_dim, dim)
        self.text = nn.Linear(text_dim, dim)
        self.text_norm = nn.LayerNorm(dim)
        self.adaln = nn.ModuleList(nn.Linear(dim, 9 * dim) for _ in range(spec.adaln_groups))
        self.blocks = nn.ModuleList(Block(spec, i) for i in range(spec.depth))
        if spec.use_shared_attention:
            self.shared_norm = nn.LayerNorm(dim)
            self.shared = Attention(dim, spec.attn_heads, multi_query=True)
        self.head_modulation = nn.Linear(dim, 2 * dim)
        self.head = nn.Linear(dim, latent_channels)
        self._initialize()

    def _initialize(self) -> None:
        """All initialisation of the backbone: gates start at 0.3, the head at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for adaln in self.adaln:
            nn.init.normal_(_linear(adaln).weight, std=0.02 / math.sqrt(self.spec.dim / 128))
        for block in self.blocks:
            assert isinstance(block, Block)
            with torch.no_grad():
                block.table[:, (2, 5, 8)] = 0.3
            if isinstance(block.mixer, BiSSM):  # decays spread from long memory to short
                for decay in (block.mixer.decay_f, block.mixer.decay_b):
                    nn.init.normal_(decay.weight, std=0.02)
                    decay.bias.data = torch.linspace(-3.0, 1.0, block.mixer.heads)
        for last in (self.head, self.head_modulation):
            nn.init.zeros_(last.weight)

    def forward(
        self, z: Tensor, t: Tensor, text: Tensor, mask: Tensor, pooled: Tensor, plan: Tensor,
        source: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Predict the velocity at (z, t).

        Args:
            z: normalised latent (B, C, h, w).
            t: flow time (B,) in [0, 1], 1 is noise.
            text: text tokens (B, L, E).
            mask: (B, L), 1 for tokens and 0 for padding.
            pooled: pooled text (B, E).
            plan: plan tokens (B, K, D) from the planner; K may be 0 (ablation A1).
            source: clean normalised source latent (B, C, h, w), or None to generate.

        Returns:
            (B, C, h, w)
        """
        batch, channels, height, width = z.shape
        halves = 1 if source is None else 2
        grid = z if source is None else torch.cat([z, source], -1)  # (B, C, h, w * halves)
        x = self.patch_in(grid.flatten(2).transpose(1, 2))  # (B, N, D)
        if source is not None and self.spec.aligned_source:
            x = add_aligned_source(x, height, width)
        x = x + position_features(height, width, x.shape[-1], halves, z.device).to(x.dtype)
        condition = self.time(time_features(t, self.spec.dim).to(x.dtype)) + self.pooled(pooled)
        condition = F.silu(condition)  # (B, D)
        modulations = [adaln(condition).reshape(batch, 9, -1) for adaln in self.adaln]
        context = torch.cat([self.text_norm(self.text(text)), plan.to(x.dtype)], 1)  # (B, L + K, D)
        bias = torch.cat([mask_bias(mask), mask.new_zeros(batch, plan.shape[1])], 1)  # (B, L + K)
        for index, block in enumerate(self.blocks):
            group = index * len(modulations) // len(self.blocks)
            x = run_block(
                block, self.checkpoint_blocks, x, modulations[group], context, bias, (height, width * halves)
            )
            if self.spec.use_shared_attention and (index + 1) % self.spec.attn_every == 0:
                normed = self.shared_norm(x)
                x = x + self.shared(normed, normed)
        shift, scale = self.head_modulation(condition).reshape(batch, 2, 1, -1).unbind(1)  # (B, 1, D) each
        velocity = self.head(modulate(x, shift, scale)).transpose(1, 2)  # (B, C, N)
        velocity = velocity.reshape(batch, channels, height, width * halves)
        return velocity if source is None else velocity[..., :width]  # type: ignore[no-any-return]


def add_aligned_source(x: Tensor, height: int, width: int) -> Tensor:
    """Add to every noisy token the source token at the same position, with its two feature halves swapped.

    Attention would otherwise have to learn which source token lies where before it could copy one. Swapping the halves
    keeps the noisy token and the source token distinguishable, and adds no parameters.

    Args:
        x: tokens (B, N, D) of [z | source], N = height * 2 * width.
        height: of one half.
        width: of one half.

    Returns:
        (B, N, D)
    """
    batch, _, dim = x.shape
    grid = x.reshape(batch, height, 2 * width, dim)
    noisy, source = grid[:, :, :width], grid[:, :, width:]  # (B, height, width, D) each
    swapped = torch.cat([source[..., dim // 2 :], source[..., : dim // 2]], -1)
    return torch.cat([noisy + swapped, source], 2).reshape(x.shape)


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module
