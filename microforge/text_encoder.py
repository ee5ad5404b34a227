"""Text encoders: the protocol, the built-in encoder, and prompts as the conditioning that the denoiser takes.

prompt -> tokenizer -> ids (B, L), mask (B, L) -> text encoder -> text (B, L, E), pooled (B, E)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from microforge.errors import PromptError
from microforge.layers import Attention, FeedForward, mask_bias
from microforge.spec import TextEncoderSpec
from microforge.tokenizer import PromptTokenizer, TokenIds

PAD_ID = 0

#: A prompt as text, one text per image, or token ids (B, L) with 0 for padding.
Prompt = str | Sequence[str] | Tensor


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
        """Tokens (B, L, E) and the additive padding bias (B, L) to tokens (B, L, E)."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, bias)
        result: Tensor = x + self.ffn(self.ffn_norm(x))
        return result


def _sinusoids(length: int, dim: int) -> Tensor:
    """Initial position embeddings (1, length, dim).

    "red circle, blue star" and "blue circle, red star" differ in order alone, so positions must be as visible as the
    words, whose embeddings have a standard deviation of 0.5, from the first optimizer step on.
    """
    position = torch.arange(length, dtype=torch.float32)[:, None]
    angles = position * torch.exp(torch.arange(dim // 2) * (-math.log(100.0) / (dim // 2)))  # (L, E / 2)
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
        self.positions = nn.Parameter(0.35 * _sinusoids(max_length, embed_dim))
        self.layers = nn.ModuleList(TextBlock(embed_dim, heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        nn.init.normal_(self.tokens.weight, std=0.5)

    @classmethod
    def from_spec(cls, spec: TextEncoderSpec) -> SimpleTextEncoder:
        """An encoder of this configuration with random weights."""
        return cls(spec.embed_dim, spec.num_layers, spec.heads, spec.vocab_size, spec.max_length)

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, L) and mask (B, L) to (sequence (B, L, E), pooled (B, E)); padding changes nothing."""
        x = self.tokens(ids) + self.positions[:, : ids.shape[1]]  # (B, L, E)
        bias = mask_bias(mask.to(x.dtype))
        for layer in self.layers:
            x = layer(x, bias)
        x = self.norm(x)
        weights = mask.to(x.dtype).unsqueeze(-1)  # (B, L, 1)
        pooled = (x * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return x, pooled

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As ``encode``."""
        return self.encode(ids, mask)


@dataclass(frozen=True)
class Conditioning:
    """Encoded text: sequence (B, L, E), mask (B, L), pooled (B, E)."""

    text: Tensor
    mask: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class PromptEncoder:
    """A text encoder with its tokenizer, which may be missing, and L, the tokens of an encoded prompt."""

    text_encoder: TextEncoder
    tokenizer: PromptTokenizer | None
    max_length: int
    device: torch.device

    def encode(self, prompt: Prompt, task: str, batch: int = 1) -> Conditioning:
        """The conditioning of a prompt; a single text stands for all ``batch`` images.

        Raises:
            PromptError: for an empty text, or for text without a tokenizer.
        """
        if isinstance(prompt, Tensor):
            return self._run(prompt, (prompt != PAD_ID).float())
        texts = [prompt] * batch if isinstance(prompt, str) else list(prompt)
        tokenizer = self._tokenizer()
        return self._run(*_stacked([tokenizer.encode(text, task, self.max_length) for text in texts]))

    def empty(self, task: str, batch: int, length: int | None = None) -> Conditioning:
        """The conditioning of the empty prompt, which guidance contrasts with, for ``batch`` images.

        Args:
            task: named by a token of its own.
            batch: images.
            length: tokens L; the encoder's own when None.

        Raises:
            PromptError: when there is no tokenizer.
        """
        tokens = self._tokenizer().encode_empty(task, self.max_length if length is None else length)
        one = self._run(*_stacked([tokens]))
        return Conditioning(
            one.text.expand(batch, -1, -1), one.mask.expand(batch, -1), one.pooled.expand(batch, -1)
        )

    def _run(self, ids: Tensor, mask: Tensor) -> Conditioning:
        ids, mask = ids.to(self.device), mask.to(self.device)
        text, pooled = self.text_encoder.encode(ids, mask)
        return Conditioning(text, mask, pooled)

    def _tokenizer(self) -> PromptTokenizer:
        if self.tokenizer is None:
            raise PromptError(
                "this pipeline has no tokenizer; pass token ids (B, L), or load a checkpoint with one"
            )
        return self.tokenizer


def _stacked(rows: Sequence[TokenIds]) -> tuple[Tensor, Tensor]:
    """Ids (B, L) int64 and mask (B, L) float32."""
    ids = np.stack([row.ids for row in rows])
    mask = np.stack([row.mask for row in rows])
    return torch.from_numpy(ids), torch.from_numpy(mask)
