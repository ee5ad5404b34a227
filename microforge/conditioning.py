"""Prompts as the conditioning that the denoiser takes: tokens, then text encoder.

prompt -> ids (B, L), mask (B, L) -> text (B, L, E), pooled (B, E)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microforge.errors import PromptError
from microforge.text_encoder import PAD_ID, TextEncoder
from microforge.tokenizer import PromptTokenizer, TokenIds

#: A prompt as text, one text per image, or token ids (B, L) with 0 for padding.
Prompt = str | Sequence[str] | Tensor


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
