"""Contact sheet of a task with a source image: source, result and target of each example, with its verdict."""

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
from microforge.evaluation.editing import ExampleVerdict
from microforge.evaluation.generation import to_uint8_images

_GREEN, _RED, _INK, _PAPER = (20, 140, 50), (205, 30, 40), (40, 40, 40), (255, 255, 255)
_SIDE, _GAP, _LINE, _FONT, _LINES, _COLUMNS = 128, 8, 13, 10, 4, 3
MAX_EXAMPLES = 60


@dataclass(frozen=True)
class SheetExample:
    """Source, result and target (H, W, 3) of an example, its instruction or caption, and the verdict."""

    source: NDArray[np.uint8]
    result: NDArray[np.uint8]
    target: NDArray[np.uint8]
    text: str
    verdict: ExampleVerdict


@dataclass
class ExampleCollector:
    """Collects at most ``MAX_EXAMPLES`` of the ``total`` examples of an evaluation, evenly spaced."""

    total: int
    examples: list[SheetExample] = field(default_factory=list)
    seen: int = 0

    def add_batch(self, batch: Triples, images: Tensor, verdicts: Sequence[ExampleVerdict]) -> None:
        """A ``BatchObserver``: takes every n-th example of the batch."""
        stride = max(1, math.ceil(self.total / MAX_EXAMPLES))
        arrays = (to_uint8_images(value.cpu()) for value in (batch.sources, images, batch.targets))
        for source, result, target, text, verdict in zip(*arrays, batch.texts, verdicts, strict=True):
            if self.seen % stride == 0:
                example = SheetExample(source.copy(), result.copy(), target.copy(), text or "", verdict)
                self.examples.append(example)
            self.seen += 1


def triple_sheet(examples: Sequence[SheetExample]) -> Image.Image:
    """Draw ``examples``, three per row: source, result with a green or red frame, target, and the texts below."""
    columns = min(_COLUMNS, max(1, len(examples)))
    wide, tall = 3 * (_SIDE + 4) + _GAP, _SIDE + _GAP + _LINES * _LINE
    rows = math.ceil(len(examples) / columns)
    sheet = Image.new("RGB", (columns * (wide + _GAP) + _GAP, rows * (tall + _GAP) + _GAP), _PAPER)
    for index, example in enumerate(examples):
        left = _GAP + index % columns * (wide + _GAP)
        _draw_example(sheet, example, left, _GAP + index // columns * (tall + _GAP))
    return sheet


def _draw_example(sheet: Image.Image, example: SheetExample, left: int, top: int) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    color = _GREEN if example.verdict.correct else _RED
    for index, pixels in enumerate((example.source, example.result, example.target)):
        image = ImageOps.contain(Image.fromarray(pixels), (_SIDE, _SIDE), Image.Resampling.LANCZOS)
        x = left + index * (_SIDE + 4)
        if index == 1:
            frame = (x - 2, top - 2, x + image.width + 1, top + image.height + 1)
            pen.rectangle(frame, outline=color, width=2)
        sheet.paste(image, (x, top))
    width = 3 * (_SIDE + 4) - _GAP
    lines = [(line, _INK) for line in wrapped(pen, font, example.text, width)]
    lines += [(line, color) for line in wrapped(pen, font, example.verdict.text, width)]
    for row, (text, ink) in enumerate(lines[:_LINES]):
        pen.text((left, top + _SIDE + 4 + row * _LINE), text, ink, font)
