"""The contact sheet of a task with a source: source, result and target of each example, with its verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from microforge.data.edit_examples import Triples
from microforge.evaluation.contact_sheet import wrapped
from microforge.evaluation.editing import Mark
from microforge.evaluation.generation import to_uint8_images

_GREEN, _RED, _INK, _PAPER = (20, 140, 50), (205, 30, 40), (40, 40, 40), (255, 255, 255)
_SIDE, _GAP, _LINE, _FONT, _LINES, _COLUMNS = 128, 8, 13, 10, 4, 3
MAX_EXAMPLES = 60


@dataclass(frozen=True)
class Example:
    """Three images (H, W, 3), the words that led from the first to the second, and the verdict on it."""

    source: NDArray[np.uint8]
    result: NDArray[np.uint8]
    target: NDArray[np.uint8]
    words: str
    mark: Mark


@dataclass
class Collector:
    """Keeps examples of an evaluation, spread evenly over all ``total``; ``watch`` is an ``EditRun``'s."""

    total: int
    examples: list[Example] = field(default_factory=list)
    seen: int = 0

    def watch(self, found: Triples, images: Tensor, marks: Sequence[Mark]) -> None:
        every = max(1, math.ceil(self.total / MAX_EXAMPLES))
        three = (to_uint8_images(value.cpu()) for value in (found.sources, images, found.targets))
        for source, result, target, text, mark in zip(*three, found.texts, marks, strict=True):
            if self.seen % every == 0:
                shown = Example(source.copy(), result.copy(), target.copy(), text or "", mark)
                self.examples.append(shown)
            self.seen += 1


def triple_sheet(examples: Sequence[Example]) -> Image.Image:
    """``examples``, three a row: source | result | target, the result framed green or red, words and verdict below."""
    columns = min(_COLUMNS, max(1, len(examples)))
    wide, tall = 3 * (_SIDE + 4) + _GAP, _SIDE + _GAP + _LINES * _LINE
    rows = math.ceil(len(examples) / columns)
    sheet = Image.new("RGB", (columns * (wide + _GAP) + _GAP, rows * (tall + _GAP) + _GAP), _PAPER)
    for index, example in enumerate(examples):
        left = _GAP + index % columns * (wide + _GAP)
        _draw_example(sheet, example, left, _GAP + index // columns * (tall + _GAP))
    return sheet


def _draw_example(sheet: Image.Image, example: Example, left: int, top: int) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    color = _GREEN if example.mark.good else _RED
    for place, pixels in enumerate((example.source, example.result, example.target)):
        picture = ImageOps.contain(Image.fromarray(pixels), (_SIDE, _SIDE), Image.Resampling.LANCZOS)
        x = left + place * (_SIDE + 4)
        if place == 1:
            frame = (x - 2, top - 2, x + picture.width + 1, top + picture.height + 1)
            pen.rectangle(frame, outline=color, width=2)
        sheet.paste(picture, (x, top))
    width = 3 * (_SIDE + 4) - _GAP
    lines = [(line, _INK) for line in wrapped(pen, font, example.words, width)]
    lines += [(line, color) for line in wrapped(pen, font, example.mark.words, width)]
    for row, (text, ink) in enumerate(lines[:_LINES]):
        pen.text((left, top + _SIDE + 4 + row * _LINE), text, ink, font)
