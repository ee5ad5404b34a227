"""Images of a run: sample sheets and the loss plot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from microforge.data.pixels import to_uint8
from microforge.io.atomic import atomic_path


def save_sheet(path: Path, sheet: Tensor) -> None:
    """Write an image (3, H, W) in [0, 1] as PNG; an old one is replaced."""
    pixels = to_uint8(sheet).permute(1, 2, 0).cpu().numpy()
    with atomic_path(path, force=True) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")


def grid(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Tile images (B, 3, H, W) into one image (3, rows * H, columns * W) with white gaps of ``gap`` pixels."""
    batch, channels, height, width = images.shape
    rows = -(-batch // columns)
    sheet = images.new_ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def plot_losses(log: Path, out: Path) -> None:
    """Plot every logged term of a run against the step."""
    import matplotlib  # slow to import, and needed only once

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    names = [name for name in rows[-1] if name not in ("step", "samples_per_s")]
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 2.8), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot(
            [row["step"] for row in rows], np.array([row.get(name, np.nan) for row in rows]), linewidth=1
        )
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.3)
        axis.set_xlabel("step", fontsize=8)
    figure.tight_layout()
    with atomic_path(out, force=True) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)
