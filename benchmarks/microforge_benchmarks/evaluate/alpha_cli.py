"""Command line that measures alpha; heavy packages are imported inside the command.

python -m microforge_benchmarks.evaluate.alpha_cli CHECKPOINT --stickers FOLDER
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import command_app, print_json, run

app = command_app("Measure the error of alpha against true alpha.")
EXAMPLE = "Example: python -m microforge_benchmarks.evaluate.alpha_cli runs/mine/vae-decoder/checkpoint --stickers stickers"


@app.command(epilog=EXAMPLE)
def command(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder with an autoencoder.")],
    stickers: Annotated[Path | None, typer.Option(help="Sticker set, as mf-data stickers makes it.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for decoded stickers.")] = Path("cache"),
    count: Annotated[int, typer.Option(min=1, help="Images of each group.")] = 200,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 256,
) -> None:
    """Print the mean absolute errors of every group of images as one JSON object."""
    from dataclasses import asdict

    from rich.console import Console

    from microforge.checkpoint import read_checkpoint
    from microforge.data.image_source import ImageSource
    from microforge.data.stickers.image_source import StickerSource
    from microforge.data.world.image_source import SceneSource
    from microforge.vae import MicroForgeVAE
    from microforge_benchmarks.evaluate.alpha_error import alpha_images, alpha_scores

    weights = read_checkpoint(checkpoint)
    vae = MicroForgeVAE(weights.spec.vae).eval()
    weights.load_into("vae", vae)
    set_ = None if stickers is None else StickerSource(stickers, cache, Console(stderr=True))
    source: ImageSource = SceneSource() if set_ is None else set_
    groups = alpha_images(source, set_, count, (size, size))
    print_json({name: asdict(alpha_scores(vae, images)) for name, images in groups})


if __name__ == "__main__":
    run(app)
