"""A contact sheet: the images of a batch side by side, each with its label. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: Longest side of one image on the sheet, and of the sheet, in pixels.
THUMBNAIL, MAX_SIDE = 256, 6000
_GAP, _LINE, _MIN_THUMBNAIL = 8, 18, 16


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``pixels`` (h, w, 3) or (h, w, 4), no larger than a sheet shows them: what has to be kept until it is made."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8)


def contact_sheet(
    images: Sequence[NDArray[np.uint8]], labels: Sequence[str], columns: int | None = None
) -> NDArray[np.uint8]:
    """``images`` (h, w, 3) or (h, w, 4), of any sizes, on white, row by row with ``labels`` below: (H, W, 3).

    Args:
        columns: images per row; a sheet that is about square by default.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    side = _thumbnail_side(images, rows, columns)
    thumbnails = [_thumbnail(image, side) for image in images]
    width, height = (max(getattr(image, name) for image in thumbnails) for name in ("width", "height"))
    cell = (width + _GAP, height + _GAP + _LINE)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for index, (image, label) in enumerate(zip(thumbnails, labels, strict=True)):
        left, top = _GAP + index % columns * cell[0], _GAP + index // columns * cell[1]
        sheet.paste(image, (left + (width - image.width) // 2, top + height - image.height))
        draw.text((left, top + height + 3), _fitted(label, width, draw, font), fill=(60, 60, 60), font=font)
    return np.asarray(sheet, np.uint8)


def _thumbnail_side(images: Sequence[NDArray[np.uint8]], rows: int, columns: int) -> int:
    longest = max(max(int(side) for side in image.shape[:2]) for image in images)
    room = (MAX_SIDE - _GAP) // max(rows, columns) - _GAP - _LINE
    return max(_MIN_THUMBNAIL, min(THUMBNAIL, longest, room))


def _thumbnail(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _fitted(
    label: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> str:
    """As much of ``label`` as ``width`` pixels hold, on one line."""
    label = " ".join(label.split())
    if draw.textlength(label, font=font) <= width:
        return label
    while label and draw.textlength(f"{label}...", font=font) > width:
        label = label[:-1]
    return f"{label}..."
