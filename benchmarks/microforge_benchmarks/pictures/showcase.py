"""Pictures for the documentation: images of fixed prompts, or fixed sources above their results, at fixed seeds.

python -m microforge_benchmarks.pictures.showcase model.mfb --out docs/images/samples.png
python -m microforge_benchmarks.pictures.showcase model.mfb --task edit --out docs/images/edit.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFont

from microforge.evaluation.contact_sheet import png_bytes, wrapped
from microforge.io.atomic import atomic_bytes, check_output
from microforge.io.console import command_app, run
from microforge_benchmarks.pictures.strip import strip
from microforge_runtimes import Generator

#: Chosen for variety before any image was seen; the seed of each prompt is its position.
PROMPTS = (
    "a red circle", "a blue square on a white background", "a green triangle on the left",
    "a yellow star on a black background", "a pink heart", "a large orange ring",
    "a purple diamond on a yellow background", "a small cyan circle in the top right corner",
    "a brown cross", "two purple diamonds", "a red square and a green circle", "a yellow heart left of a blue star",
)  # fmt: skip
COLUMNS, GAP, CAPTION, FONT = 6, 12, 34, 13

app = command_app("Make the documentation's pictures.")


def showcase(bundle: Path) -> Image.Image:
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


@app.command(epilog="Example: python -m microforge_benchmarks.pictures.showcase model.mfb --out samples.png")
def main(
    model: Annotated[Path, typer.Argument(help="Bundle made by mf-export build; with --task also a checkpoint.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    task: Annotated[str, typer.Option(help="generate; or edit, inpaint, super-resolve: sources above their results.")] = "generate",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing picture.")] = False,
) -> None:  # fmt: skip
    """Make one of the documentation's pictures."""
    check_output(out, force)
    picture = showcase(model) if task == "generate" else strip(model, task)
    atomic_bytes(out, png_bytes(picture), force)


if __name__ == "__main__":
    run(app)
