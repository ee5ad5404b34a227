"""Text encoders: the protocol every one follows, and the small one that is built in."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from microforge.layers import Attention, FeedForward, mask_bias
from microforge.spec import TextEncoderSpec

PAD_ID = 0


class TextEncoder(Protocol):
    """Token ids (B, L) and a 0/1 mask (B, L) to a sequence (B, L, E) and a pooled vector (B, E)."""

    embed_dim: int

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]: ...


class TextBlock(nn.Module):
    """Pre-norm transformer layer: 12 E^2 parameters."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.ffn = FeedForward(dim, 4)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, bias)
        result: Tensor = x + self.ffn(self.ffn_norm(x))
        return result


def _word_order(length: int, dim: int) -> Tensor:
    """Sinusoids (1, length, dim) where positions start: "red circle, blue star" and "blue circle, red star" differ in
    order alone, so order has to be visible beside the words (deviation 0.5) from the first step on."""
    place = torch.arange(length, dtype=torch.float32)[:, None]
    angles = place * torch.exp(torch.arange(dim // 2) * (-math.log(100.0) / (dim // 2)))
    return torch.cat([torch.sin(angles), torch.cos(angles)], -1).unsqueeze(0)


class SimpleTextEncoder(nn.Module):
    """A bidirectional transformer over the built-in vocabulary of 8192; pooled = masked mean."""

    def __init__(
        self, embed_dim: int = 768, num_layers: int = 2, heads: int = 4, vocab_size: int = 8192,
        max_length: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.spec = TextEncoderSpec(embed_dim, num_layers, heads, vocab_size, max_length)
        self.embed_dim = embed_dim
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        self.positions = nn.Parameter(0.35 * _word_order(max_length, embed_dim))
        self.layers = nn.ModuleList(TextBlock(embed_dim, heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        nn.init.normal_(self.tokens.weight, std=0.5)

    @classmethod
    def from_spec(cls, spec: TextEncoderSpec) -> SimpleTextEncoder:
        return cls(spec.embed_dim, spec.num_layers, spec.heads, spec.vocab_size, spec.max_length)

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, L) and mask (B, L) to (sequence (B, L, E), pooled (B, E)); padding changes nothing."""
        x = self.tokens(ids) + self.positions[:, : ids.shape[1]]
        bias = mask_bias(mask.to(x.dtype))
        for layer in self.layers:
            x = layer(x, bias)
        x = self.norm(x)
        weights = mask.to(x.dtype).unsqueeze(-1)
        pooled = (x * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return x, pooled

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(ids, mask)
