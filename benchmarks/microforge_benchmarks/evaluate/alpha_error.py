"""Mean absolute error of alpha against true alpha: of the decoder's fourth channel, and of the background matte.

Letters: B images, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microforge.data.image_source import ImageSource
from microforge.data.pixels import to_uint8
from microforge.data.stickers.image_source import StickerSource
from microforge.streams import FixedSeed
from microforge.vae import MicroForgeVAE
from microforge_runtimes.images.matte import cut_out

_BATCH = 8


@dataclass(frozen=True)
class AlphaScores:
    """Mean absolute errors, 0 to 1, over all pixels of ``images`` images.

    Attributes:
        images: how many there are.
        channel: of the decoder's fourth channel after the round trip; None without one.
        matte: of the background matte of the round trip's colours.
        matte_true_images: of the matte of the images before the round trip: the matte's own error.
        plain_backgrounds: share of the images whose round trip the matte could cut out.
    """

    images: int
    channel: float | None
    matte: float
    matte_true_images: float
    plain_backgrounds: float


@torch.no_grad()
def alpha_scores(vae: MicroForgeVAE, images: Tensor) -> AlphaScores:
    """The errors of a round trip of ``images`` (B, 4, H, W) in [0, 1], whose fourth channel is true alpha."""
    channel, matte, matte_true, cut = [], [], [], []
    for batch in torch.split(images, _BATCH):
        decoded = vae.decoder(vae.encode(batch[:, :3]).mean).float().clamp(0.0, 1.0)
        if vae.spec.alpha:
            channel.append((decoded[:, 3] - batch[:, 3]).abs().mean((1, 2)))
        for output, image in zip(decoded, batch, strict=True):
            truth = image[3].numpy()
            error, is_cut = _matte_error(output[:3], truth)
            matte.append(error)
            cut.append(is_cut)
            matte_true.append(_matte_error(image[:3], truth)[0])
    return AlphaScores(
        len(images), round(float(torch.cat(channel).mean()), 4) if channel else None,
        round(float(np.mean(matte)), 4), round(float(np.mean(matte_true)), 4), round(float(np.mean(cut)), 3),
    )  # fmt: skip


def _matte_error(
    colors: Tensor, truth: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> tuple[float, bool]:
    result = cut_out(to_uint8(colors[None])[0].permute(1, 2, 0).contiguous().numpy())
    return float(np.abs(result.pixels[..., 3] / 255.0 - truth).mean()), result.is_cut


def alpha_images(
    source: ImageSource, stickers: StickerSource | None, count: int, size: tuple[int, int]
) -> Iterator[tuple[str, Tensor]]:
    """Name and about ``count`` images (B, 4, H, W) of each group: held-out stickers on white, and whole images."""
    source.prepare(size)
    if stickers is not None:
        stickers.prepare(size)
        held = (*stickers.held_subjects, *stickers.held_pictures) or tuple(range(len(stickers.stickers)))
        rows = [held[index * len(held) // count] for index in range(count)] if len(held) > count else held
        yield "held-out stickers on white", stickers.portraits_with_alpha(rows, size, "cpu")
    yield "images of the data", source.images_with_alpha(FixedSeed.UNSEEN_SCENES, 0, count, size, "cpu")
