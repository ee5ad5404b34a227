"""Contact sheet of an evaluation: images with their prompts and the detector's verdicts."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from microforge.evaluation.generation import JudgedImage

_GREEN, _RED, _INK, _PAPER = (20, 140, 50), (205, 30, 40), (40, 40, 40), (255, 255, 255)
_SIDE, _GAP, _LINE, _FONT = 144, 10, 13, 10
_CAPTION_LINES = 4
MAX_IMAGES = 120


def sheet_stride(total: int) -> int:
    """Step between the results that a contact sheet of ``total`` results shows."""
    return max(1, math.ceil(total / MAX_IMAGES))


def contact_sheet(results: Sequence[JudgedImage], columns: int = 10) -> Image.Image:
    """Draw at most ``MAX_IMAGES`` evenly spaced results, each with a green tick or a red cross.

    Only every ``sheet_stride(len(results))``-th result needs its image.
    """
    chosen = results[:: sheet_stride(len(results))]
    columns = min(columns, max(1, len(chosen)))
    cell = _SIDE + _GAP, _SIDE + _GAP + _CAPTION_LINES * _LINE
    size = columns * cell[0] + _GAP, math.ceil(len(chosen) / columns) * cell[1] + _GAP
    sheet = Image.new("RGB", size, _PAPER)
    for index, result in enumerate(chosen):
        _draw_cell(sheet, result, _GAP + index % columns * cell[0], _GAP + index // columns * cell[1])
    return sheet


def png_bytes(image: Image.Image) -> bytes:
    """Encode ``image`` as a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _draw_cell(sheet: Image.Image, result: JudgedImage, left: int, top: int) -> None:
    color = _GREEN if result.verdict.correct else _RED
    image = ImageOps.contain(Image.fromarray(result.image), (_SIDE, _SIDE), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((left - 2, top - 2, left + image.width + 1, top + image.height + 1), outline=color, width=2)
    sheet.paste(image, (left, top))
    below = top + _SIDE + 3
    _draw_mark(pen, left, below, color, result.verdict.correct)
    font = ImageFont.load_default(_FONT)
    lines = wrapped(pen, font, result.prompt.text, _SIDE - 14)
    reason = [] if result.verdict.correct else wrapped(pen, font, result.verdict.reason, _SIDE - 14)
    for row, (text, ink) in enumerate([*((t, _INK) for t in lines), *((t, color) for t in reason)]):
        if row < _CAPTION_LINES:
            pen.text((left + 14, below + row * _LINE), text, ink, font)


def _draw_mark(pen: ImageDraw.ImageDraw, x: int, y: int, color: tuple[int, int, int], correct: bool) -> None:
    """Draw a tick or a cross from lines, because not every font has them."""
    if correct:
        pen.line([(x + 1, y + 6), (x + 4, y + 10), (x + 10, y + 2)], color, 2)
    else:
        pen.line([(x + 1, y + 2), (x + 9, y + 10)], color, 2)
        pen.line([(x + 1, y + 10), (x + 9, y + 2)], color, 2)


def wrapped(
    pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, width: float
) -> list[str]:
    """Wrap ``text`` to lines of at most ``width`` pixels; a longer word has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line]
