"""Paints stickers on backgrounds: any part of an image at any size, anti-aliased, the same pixels every time.

Letters: h w height and width of the painted part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microforge.data.stickers.recolor import Recolor, recolored
from microforge.data.stickers.store import SpriteStore
from microforge.data.world.scenes import RGB

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """A part of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Background:
    """A plain colour, or a linear gradient to ``second`` in the direction ``angle`` (radians, 0 = rightwards)."""

    first: RGB
    second: RGB | None = None
    angle: float = 0.0


@dataclass(frozen=True)
class Placement:
    """A sticker in an image: ``row`` of its store, and the pixels that its visible box covers."""

    row: int
    left: int
    top: int
    width: int
    height: int
    mirrored: bool = False
    recolor: Recolor | None = None


@dataclass(frozen=True)
class Layers:
    """An image before it is painted; later placements cover earlier ones."""

    background: Background
    placements: tuple[Placement, ...]


def paint(
    layers: Layers, store: SpriteStore, size: tuple[int, int], window: Window | None = None, alpha: bool = False
) -> Pixels:  # fmt: skip
    """Paint an image of ``size`` (height, width), or a ``window`` of it: float32 (h, w, 3) in [0, 1].

    With ``alpha`` it is (h, w, 4): how much of each pixel stickers cover.
    """
    window = window or Window(0, 0, size[1], size[0])
    canvas = _background(layers.background, size, window)
    free = np.ones((window.height, window.width, 1), np.float32)
    for placement in layers.placements:
        found = sprite_part(placement, store, window)
        if found is None:
            continue
        rows, columns, part = found
        covered = canvas[rows, columns]
        covered *= 1.0 - part[..., 3:]
        covered += part[..., :3]
        free[rows, columns] *= 1.0 - part[..., 3:]
    image = np.concatenate([canvas, 1.0 - free], 2) if alpha else canvas
    return np.clip(image, 0.0, 1.0)


def sprite_part(
    placement: Placement, store: SpriteStore, window: Window
) -> tuple[slice, slice, Pixels] | None:
    """Rows and columns of ``window`` that a placement touches, and its premultiplied pixels (h, w, 4) there."""
    left, top = max(placement.left, window.left), max(placement.top, window.top)
    right = min(placement.left + placement.width, window.left + window.width)
    bottom = min(placement.top + placement.height, window.top + window.height)
    if right <= left or bottom <= top:
        return None
    start, above, end, below = (float(value) for value in store.boxes[placement.row])
    across, down = (end - start) / placement.width, (below - above) / placement.height
    first, last = left - placement.left, right - placement.left
    if placement.mirrored:
        first, last = placement.width - last, placement.width - first
    source = (
        start + first * across, above + (top - placement.top) * down,
        min(start + last * across, end), min(above + (bottom - placement.top) * down, below),
    )  # fmt: skip
    part = store.image(placement.row).resize((right - left, bottom - top), Image.Resampling.BICUBIC, source)
    pixels = np.frombuffer(part.tobytes(), np.uint8).reshape(bottom - top, right - left, 4)
    values = pixels.astype(np.float32) / 255.0
    if placement.mirrored:
        values = values[:, ::-1]
    # Bicubic overshoots: premultiplied colours lie between nothing and the coverage.
    values[..., :3] = np.clip(values[..., :3], 0.0, values[..., 3:])
    if placement.recolor is not None:
        values = recolored(values, placement.recolor)
    return (
        slice(top - window.top, bottom - window.top), slice(left - window.left, right - window.left), values,
    )  # fmt: skip


def _background(background: Background, size: tuple[int, int], window: Window) -> Pixels:
    first = np.asarray(background.first, np.float32)
    if background.second is None:
        return np.broadcast_to(first, (window.height, window.width, 3)).copy()
    across, down = math.cos(background.angle), math.sin(background.angle)
    reach = (abs(across) * size[1] + abs(down) * size[0]) / 2
    x = np.arange(window.left, window.left + window.width, dtype=np.float32) + 0.5 - size[1] / 2
    y = np.arange(window.top, window.top + window.height, dtype=np.float32) + 0.5 - size[0] / 2
    share = 0.5 + (x * across + (y * down)[:, None]) / (2 * reach)
    mixed: Pixels = first + share[..., None].astype(np.float32) * (
        np.asarray(background.second, np.float32) - first
    )
    return mixed
