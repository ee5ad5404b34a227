"""How well an autoencoder reconstructs held-out images at full size: PSNR, SSIM, and a sheet for the eye.

``python -m microforge.evaluation.reconstruction CHECKPOINT --stickers FOLDER`` judges stickers of subjects that the
autoencoder never sees, known subjects in an unseen style, and scenes of the procedural world.

Letters: B images, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from microforge.checkpoint import read_checkpoint
from microforge.data.stickers.image_source import StickerSource
from microforge.data.world.renderer import render
from microforge.data.world.scenes import KINDS, choice, sample_scene
from microforge.evaluation.metrics import psnr, ssim
from microforge.io.console import command_app, print_json, run
from microforge.streams import FixedSeed
from microforge.vae import MicroForgeVAE

if TYPE_CHECKING:
    from rich.console import Console

BATCH = 8

app = command_app("Judge an autoencoder by its reconstructions of held-out images.")


@dataclass(frozen=True)
class Reconstruction:
    """Images (B, 3, H, W) and their reconstructions, with the metrics of each (B,)."""

    images: Tensor
    outputs: Tensor
    psnr: Tensor
    ssim: Tensor

    @property
    def summary(self) -> dict[str, float]:
        """Means, and the PSNR that nine in ten images reach."""
        return {
            "images": len(self.images), "psnr_db": round(float(self.psnr.mean()), 2),
            "psnr_db_p10": round(float(self.psnr.quantile(0.1)), 2), "ssim": round(float(self.ssim.mean()), 4),
        }  # fmt: skip


@torch.no_grad()
def reconstruct(vae: MicroForgeVAE, images: Tensor) -> Reconstruction:
    """Encode and decode ``images`` (B, 3, H, W) in [0, 1], without noise."""
    outputs = torch.cat([
        vae.decode(vae.encode(batch).mean).float().clamp(0.0, 1.0) for batch in torch.split(images, BATCH)
    ])  # fmt: skip
    return Reconstruction(images, outputs, psnr(outputs, images), ssim(outputs, images))


def held_out_images(
    stickers: StickerSource | None, count: int, size: tuple[int, int]
) -> Iterator[tuple[str, Tensor]]:
    """Up to ``count`` images of each group by its name."""
    if stickers is not None:
        stickers.prepare(size)
        for name, rows in (
            ("unseen subjects", stickers.held_subjects),
            ("unseen styles", stickers.held_pictures),
        ):
            if rows:
                yield name, stickers.portraits(_spread(rows, count), size, "cpu")
    rng = np.random.default_rng(FixedSeed.UNSEEN_SCENES)
    scenes = [sample_scene(rng, choice(rng, tuple(KINDS)), held_out=True) for _ in range(count)]
    yield "shapes", render(scenes, *size)


def _spread(rows: Sequence[int], count: int) -> list[int]:
    return [rows[index * len(rows) // count] for index in range(count)] if len(rows) > count else list(rows)


def sheet(results: Sequence[Reconstruction], each: int) -> Tensor:
    """The first ``each`` images of every result above their reconstructions, (3, H, W)."""
    rows = [torch.cat(list(part[:each]), dim=2) for one in results for part in (one.images, one.outputs)]
    width = max(row.shape[2] for row in rows)
    return torch.cat(
        [torch.nn.functional.pad(row, (0, width - row.shape[2]), value=1.0) for row in rows], dim=1
    )


@app.command()
def command(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint with an autoencoder.")],
    stickers: Annotated[Path | None, typer.Option(help="Sticker set, as mf-data stickers makes it.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for decoded stickers.")] = Path("cache"),
    count: Annotated[int, typer.Option(min=1, help="Images of each group.")] = 100,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 256,
    pictures: Annotated[Path | None, typer.Option(help="PNG of images above their reconstructions.")] = None,
    each: Annotated[int, typer.Option(min=1, help="Images of each group on it.")] = 10,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing PNG.")] = False,
) -> None:
    """Print the metrics of every group as one JSON object."""
    from rich.console import Console

    _judge(checkpoint, stickers, cache, count, (size, size), (pictures, each, force), Console(stderr=True))


def _judge(
    checkpoint: Path, folder: Path | None, cache: Path, count: int, size: tuple[int, int],
    pictures: tuple[Path | None, int, bool], console: Console,
) -> None:  # fmt: skip
    from PIL import Image

    from microforge.data.pixels import to_uint8
    from microforge.evaluation.contact_sheet import png_bytes
    from microforge.io.atomic import atomic_bytes, check_output

    target, each, force = pictures
    if target is not None:
        check_output(target, force)
    found = read_checkpoint(checkpoint)
    vae = MicroForgeVAE(found.spec.vae).eval()
    found.load_into("vae", vae)
    source = None if folder is None else StickerSource(folder, cache, console)
    results = {name: reconstruct(vae, images) for name, images in held_out_images(source, count, size)}
    if target is not None:
        pixels = to_uint8(sheet(list(results.values()), each)).permute(1, 2, 0).contiguous().numpy()
        atomic_bytes(target, png_bytes(Image.fromarray(pixels)), force)
    print_json({name: result.summary for name, result in results.items()})


if __name__ == "__main__":
    run(app)
