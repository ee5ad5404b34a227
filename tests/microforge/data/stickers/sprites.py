"""A user's own folder of stickers, drawn by the test: discs of one colour each on nothing."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

COLORS = ((220, 20, 30), (20, 160, 60), (30, 60, 220), (240, 200, 20))


def write_sprites(folder: Path, count: int = 8, side: int = 48) -> Path:
    """``count`` sprites, subject-N.png, in the subfolders plain and wide by turns."""
    for index in range(count):
        style = ("plain", "wide")[index % 2]
        image = Image.new("RGBA", (side, side))
        height = side if style == "plain" else side // 2
        color = (*COLORS[index % len(COLORS)], 255)
        ImageDraw.Draw(image).ellipse(
            (0, (side - height) // 2, side - 1, (side + height) // 2 - 1), fill=color
        )
        path = folder / style / f"subject-{index // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder
