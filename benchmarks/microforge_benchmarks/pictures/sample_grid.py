"""Picture of a model's images for fixed prompts at fixed seeds, in a grid."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from microforge.evaluation.contact_sheet import wrapped
from microforge_runtimes import Generator

#: Chosen for variety before any image was seen; the seed of each prompt is its position.
PROMPTS = (
    "a red circle", "a blue square on a white background", "a green triangle on the left",
    "a yellow star on a black background", "a pink heart", "a large orange ring",
    "a purple diamond on a yellow background", "a small cyan circle in the top right corner",
    "a brown cross", "two purple diamonds", "a red square and a green circle", "a yellow heart left of a blue star",
)  # fmt: skip
COLUMNS, GAP, CAPTION, FONT = 6, 12, 34, 13


def sample_grid(bundle: Path) -> Image.Image:
    """Draw the images of all ``PROMPTS`` in a grid, with the prompts below."""
    with Generator(bundle, keep_loaded=True) as generator:
        images = [generator.generate(prompt, seed).image for seed, prompt in enumerate(PROMPTS)]
    side = max(images[0].shape[:2])
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (side + GAP) + GAP, rows * (side + GAP + CAPTION) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for index, (prompt, image) in enumerate(zip(PROMPTS, images, strict=True)):
        left = GAP + index % COLUMNS * (side + GAP)
        top = GAP + index // COLUMNS * (side + GAP + CAPTION)
        sheet.paste(Image.fromarray(image), (left, top))
        pen.rectangle((left - 1, top - 1, left + side, top + side), outline=(210, 210, 210))
        lines = "\n".join(wrapped(pen, font, prompt, side))
        pen.multiline_text((left, top + side + 4), lines, (40, 40, 40), font)
    return sheet
