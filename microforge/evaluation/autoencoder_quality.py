"""Reconstruction quality of an autoencoder on held-out images at full size: PSNR, SSIM, and a comparison sheet.

The images show stickers of subjects that the autoencoder never sees, known subjects in an unseen style, and scenes of
the procedural world. Letters: B images, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microforge.data.stickers.image_source import StickerSource
from microforge.data.world.renderer import render
from microforge.data.world.scenes import KINDS, choice, sample_scene
from microforge.evaluation.metrics import psnr, ssim
from microforge.streams import FixedSeed
from microforge.vae import MicroForgeVAE

BATCH = 8


@dataclass(frozen=True)
class ReconstructionScores:
    """Number of images, mean PSNR in dB, the PSNR that nine in ten images reach, and mean SSIM."""

    images: int
    psnr_db: float
    psnr_db_p10: float
    ssim: float


@dataclass(frozen=True)
class Reconstruction:
    """Images and their reconstructions (B, 3, H, W), with the metrics of each image (B,)."""

    images: Tensor
    outputs: Tensor
    psnr: Tensor
    ssim: Tensor

    @property
    def scores(self) -> ReconstructionScores:
        """Metrics over all images."""
        return ReconstructionScores(
            len(self.images), round(float(self.psnr.mean()), 2), round(float(self.psnr.quantile(0.1)), 2),
            round(float(self.ssim.mean()), 4),
        )  # fmt: skip


@torch.no_grad()
def reconstruct(vae: MicroForgeVAE, images: Tensor) -> Reconstruction:
    """Encode and decode ``images`` (B, 3, H, W) in [0, 1] without sampling noise."""
    outputs = torch.cat([
        vae.decode(vae.encode(batch).mean).float().clamp(0.0, 1.0) for batch in torch.split(images, BATCH)
    ])  # fmt: skip
    return Reconstruction(images, outputs, psnr(outputs, images), ssim(outputs, images))


def held_out_images(
    stickers: StickerSource | None, count: int, size: tuple[int, int]
) -> Iterator[tuple[str, Tensor]]:
    """Name and up to ``count`` images (B, 3, H, W) of each group of held-out images."""
    if stickers is not None:
        stickers.prepare(size)
        for name, rows in (
            ("unseen subjects", stickers.held_subjects),
            ("unseen styles", stickers.held_pictures),
        ):
            if rows:
                yield name, stickers.portraits(_evenly_spaced(rows, count), size, "cpu")
    rng = np.random.default_rng(FixedSeed.UNSEEN_SCENES)
    scenes = [sample_scene(rng, choice(rng, tuple(KINDS)), held_out=True) for _ in range(count)]
    yield "shapes", render(scenes, *size)


def _evenly_spaced(rows: Sequence[int], count: int) -> list[int]:
    return [rows[index * len(rows) // count] for index in range(count)] if len(rows) > count else list(rows)


def comparison_sheet(results: Sequence[Reconstruction], columns: int) -> Tensor:
    """The first ``columns`` images of every result above their reconstructions, as one image (3, H, W)."""
    rows = [torch.cat(list(part[:columns]), dim=2) for one in results for part in (one.images, one.outputs)]
    width = max(row.shape[2] for row in rows)
    padded = [torch.nn.functional.pad(row, (0, width - row.shape[2]), value=1.0) for row in rows]
    return torch.cat(padded, dim=1)
