"""Command line that measures an autoencoder on held-out images; heavy packages are imported inside the command.

python -m microforge.evaluation.reconstruction CHECKPOINT --stickers FOLDER --pictures sheet.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import command_app, print_json, run

app = command_app("Measure an autoencoder by its reconstructions of held-out images.")
EXAMPLE = (
    "Example: python -m microforge.evaluation.reconstruction runs/tiny/vae/checkpoint --pictures sheet.png"
)


@app.command(epilog=EXAMPLE)
def command(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder with an autoencoder.")],
    stickers: Annotated[Path | None, typer.Option(help="Sticker set, as mf-data stickers makes it.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for decoded stickers.")] = Path("cache"),
    count: Annotated[int, typer.Option(min=1, help="Images of each group.")] = 100,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 256,
    pictures: Annotated[Path | None, typer.Option(help="PNG file of images above their reconstructions.")] = None,
    each: Annotated[int, typer.Option(min=1, help="Images of each group in that file.")] = 10,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing PNG file.")] = False,
) -> None:  # fmt: skip
    """Print the reconstruction scores of every group of held-out images as one JSON object."""
    from dataclasses import asdict

    from PIL import Image
    from rich.console import Console

    from microforge.checkpoint import read_checkpoint
    from microforge.data.pixels import to_uint8
    from microforge.data.stickers.image_source import StickerSource
    from microforge.evaluation.autoencoder_quality import comparison_sheet, held_out_images, reconstruct
    from microforge.evaluation.contact_sheet import png_bytes
    from microforge.io.atomic import atomic_bytes, check_output
    from microforge.vae import MicroForgeVAE

    if pictures is not None:
        check_output(pictures, force)
    weights = read_checkpoint(checkpoint)
    vae = MicroForgeVAE(weights.spec.vae).eval()
    weights.load_into("vae", vae)
    source = None if stickers is None else StickerSource(stickers, cache, Console(stderr=True))
    groups = held_out_images(source, count, (size, size))
    results = {name: reconstruct(vae, images) for name, images in groups}
    if pictures is not None:
        sheet = to_uint8(comparison_sheet(list(results.values()), each))
        pixels = sheet.permute(1, 2, 0).contiguous().numpy()
        atomic_bytes(pictures, png_bytes(Image.fromarray(pixels)), force)
    print_json({name: asdict(result.scores) for name, result in results.items()})


if __name__ == "__main__":
    run(app)
