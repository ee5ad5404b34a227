"""The networks of a pipeline with tensors in and out: static shapes, no keyword arguments, no boolean masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: Stands for minus infinity in masks: half precision holds it.
_MASKED = -1e4


class UNetNetwork(nn.Module):
    """The denoising network of one guidance branch; ``names`` are its inputs in order, ``added`` those of a mapping."""

    def __init__(self, unet: Any, names: Sequence[str], added: Sequence[str]) -> None:
        super().__init__()
        self.unet, self.names, self.added = unet, tuple(names), tuple(added)

    def forward(self, *tensors: Tensor) -> Tensor:
        values = dict(zip(self.names, tensors, strict=True))
        added = {name: values.pop(name) for name in self.added}
        sample, timestep = values.pop("sample"), values.pop("timestep")
        more = {"added_cond_kwargs": added} if added else {}
        return self.unet(sample, timestep, **values, **more, return_dict=False)[0]  # type: ignore[no-any-return]


class ImageDecoder(nn.Module):
    """Raw latent (1, C, h, w) to an image (1, 3, H, W) in [0, 1]."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: Tensor) -> Tensor:
        image = self.vae.decode(latent, return_dict=False)[0]
        return (image * 0.5 + 0.5).clamp(0.0, 1.0)  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """Image (1, 3, H, W) in [0, 1] to its raw latent (1, C, h, w), the mode where the autoencoder gives a distribution."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor) -> Tensor:
        encoded = self.vae.encode(image * 2.0 - 1.0)
        if hasattr(encoded, "latents"):
            return encoded.latents  # type: ignore[no-any-return]
        return encoded.latent_dist.mean  # type: ignore[no-any-return]


class ClipTextNetwork(nn.Module):
    """A CLIP text tower on token ids (1, L), padding attended like any token, as diffusers' pipelines do.

    Outputs: ``text`` (1, L, D), and with ``pooled`` the projected features (1, P) of the first end token.
    """

    causal_mask: Tensor

    def __init__(self, model: Any, penultimate: bool, pooled: bool, length: int) -> None:
        """Args:
        model: CLIPTextModel or CLIPTextModelWithProjection.
        penultimate: take the last but one layer without normalization, as SDXL does.
        pooled: also give the projected features.
        length: of the token ids.
        """
        super().__init__()
        tower = getattr(model, "text_model", model)
        self.embeddings, self.layers = tower.embeddings, tower.encoder.layers
        self.norm = tower.final_layer_norm
        self.projection = model.text_projection if pooled else None
        self.penultimate = penultimate
        end = tower.config.eos_token_id
        self.end = (
            tower.config.vocab_size - 1 if end == 2 else end
        )  # older configurations say 2 and mean the last id
        mask = torch.full((length, length), _MASKED).triu(1)
        self.register_buffer("causal_mask", mask[None, None], persistent=False)
        self.register_buffer("counting", torch.ones(length, length).triu(), persistent=False)

    counting: Tensor

    def forward(self, ids: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        hidden = self.embeddings(ids)  # (1, L, D)
        previous = hidden
        for layer in self.layers:
            previous, hidden = hidden, layer(hidden, self.causal_mask)
        if not self.penultimate:
            return self.norm(hidden)  # type: ignore[no-any-return]
        if self.projection is None:
            return previous  # type: ignore[no-any-return]
        ends = (ids == self.end).to(hidden.dtype)  # (1, L)
        first = ends * (2.0 - ends @ self.counting).clamp(0.0, 1.0)  # 1 at the first end token
        pooled = (first[:, None] @ self.norm(hidden))[:, 0]  # (1, D)
        return previous, self.projection(pooled)
