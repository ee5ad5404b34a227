"""A user's images on a model's canvas and back: masks, alpha, visible changes and enlargement in tiles, byte by byte.

The pictures are smooth blobs with hard edges from the portable generator, so that resampling, clipping and thresholds all matter.
What a model would have made is such a picture, too.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.sampling import Enlargement, SourceEntry
from microforge.noise import standard_normal
from microforge_runtimes.images.image_file import Mask, Pixels, SourceImage
from microforge_runtimes.images.source_request import (
    SourceRequest,
    assemble_enlargement,
    from_canvas,
    source_request,
    split,
    to_canvas,
)
from microforge_runtimes.sampler import to_pixels

_DESCRIPTION = (
    "Images are base64 of rows of uint8 pixels, sizes are (height, width), channels 3 (RGB), 4 (RGBA) or 1. entry: the parts of a "
    "task's source that matter here. Each tile (top, left, height, width) of the source goes on the canvas: canvas and canvas_mask "
    "(0 or 255) are what the networks see of it, as bytes; generated is what a model made of it. result is the user's image. "
    "Enlarged images may differ by one level, all others must be equal."
)


@dataclass(frozen=True)
class _Setting:
    """A source of ``size``, a canvas, and what is done."""

    name: str
    size: tuple[int, int]
    canvas: tuple[int, int]
    alpha: bool = False
    mask: bool = False
    composite: bool = False
    masked_value: float | None = None
    enlarge: Enlargement | None = None


_ENLARGE = Enlargement(factors=(2, 4), oversampling=2)
_SETTINGS = (
    _Setting("larger than the canvas", (45, 70), (32, 48)),
    _Setting("smaller than the canvas", (9, 7), (32, 48)),
    _Setting("of the canvas's size", (32, 48), (32, 48)),
    _Setting("with a mask", (50, 31), (32, 32), mask=True, masked_value=0.5),
    _Setting(
        "with alpha and a mask that is filled", (21, 40), (32, 32), alpha=True, mask=True, masked_value=0.5
    ),
    _Setting("with alpha and visible changes only", (70, 70), (64, 64), alpha=True, composite=True),
    _Setting("enlarged at once", (6, 9), (32, 48), enlarge=_ENLARGE),
    _Setting("enlarged in tiles with alpha", (13, 20), (32, 48), alpha=True, enlarge=_ENLARGE),
)


def image_values() -> dict[str, Any]:
    """Everything that ``images.json.gz`` holds."""
    return {
        "description": _DESCRIPTION,
        "cases": [_case(index, item) for index, item in enumerate(_SETTINGS)],
    }


def _case(index: int, setting: _Setting) -> dict[str, Any]:
    entry = SourceEntry(encoder="image", masked_value=setting.masked_value, enlarge=setting.enlarge)
    request = source_request(
        "task", entry, _source(index, setting), _mask(index, setting), None, setting.composite
    )
    tiles = []
    parts = []
    for number, tile in enumerate(split(request, setting.canvas)):
        inputs = to_canvas(request, setting.canvas, tile)
        generated = _generated(request, setting, index * 100 + number, to_pixels(inputs.source))
        parts.append((tile, inputs, generated))
        tiles.append(
            {
                "tile": [tile.rows.start, tile.columns.start, *tile.size],
                "canvas": _image(to_pixels(inputs.source)),
                "canvas_mask": None if inputs.mask is None else _image(_levels(inputs.mask[0, 0])),
                "generated": _image(generated),
            }
        )
    result = (
        assemble_enlargement(request, parts)
        if request.enlarges
        else from_canvas(request, parts[0][1], parts[0][2])
    )
    stored = (
        request.source.stored
        if request.source.alpha is None
        else np.dstack([request.source.stored, request.source.alpha])
    )
    return {
        "name": setting.name,
        "canvas": list(setting.canvas),
        "composite": setting.composite,
        "entry": entry.model_dump(mode="json"),
        "source": _image(stored),
        "mask": None if request.mask is None else _image(_levels(request.mask)),
        "tiles": tiles,
        "result": _image(result),
    }


def _source(index: int, setting: _Setting) -> SourceImage:
    pixels = _picture(index, setting.size, 4)
    return SourceImage(pixels[..., :3], pixels[..., 3] if setting.alpha else None)


def _mask(index: int, setting: _Setting) -> Mask | None:
    return _picture(50 + index, setting.size, 1)[..., 0] > 128 if setting.mask else None


def _generated(request: SourceRequest, setting: _Setting, index: int, canvas: Pixels) -> Pixels:
    """What a model may have made: another picture, of the canvas enlarged, or changed in a part where only changes count."""
    other = _picture(1000 + index, setting.canvas, 3)
    if not setting.composite:
        return other
    changed = canvas.copy()
    changed[10:34, 20:50] = other[10:34, 20:50]
    return changed


def _picture(index: int, size: tuple[int, int], channels: int) -> Pixels:
    """Waves of a few frequencies, clipped so that flat parts have hard edges."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float64)
    planes = []
    for channel in range(channels):
        a, b, c, d = standard_normal(9, (4,), (index * 8 + channel) * 4).astype(np.float64)
        planes.append(np.sin(rows * 0.3 * a + columns * 0.2 * b + c) * 200.0 + 128.0 + 40.0 * d)
    picture: Pixels = np.rint(np.clip(np.stack(planes, -1), 0.0, 255.0)).astype(np.uint8)
    return picture


def _levels(mask: NDArray[Any]) -> Pixels:
    levels: Pixels = (mask > 0).astype(np.uint8) * np.uint8(255)
    return levels


def _image(pixels: Pixels) -> dict[str, Any]:
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    return {
        "shape": list(shape),
        "base64": base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode("ascii"),
    }
