"""Random images of stickers for the autoencoder: no caption and no meaning, only what pixels look like.

Most show one subject large in the middle, as the sticker world does; the others teach small subjects and several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from microforge.data.stickers.compositing import Background, Layers, Placement
from microforge.data.stickers.recolor import Recolor, recolor_to
from microforge.data.stickers.store import SpriteStore
from microforge.data.world.scenes import COLORS, RGB, jittered

#: Shares of images with one large subject, one of any size anywhere, and (the rest) several small ones.
LARGE, ANYWHERE = 0.62, 0.16
MOST = 5
#: Shares of white, plain and (the rest) gradient backgrounds.
WHITE, PLAIN = 0.45, 0.33
MIRRORED, RECOLORED = 0.3, 0.25
_TRIES = 20


def arrange(
    rng: np.random.Generator, first: int, others: Sequence[int], store: SpriteStore, size: tuple[int, int]
) -> Layers:
    """An image with the sticker ``first``, perhaps beside some of ``others``; one background, nothing overlaps.

    Args:
        size: (height, width) of the image in pixels.
    """
    background = sample_background(rng)
    kind = rng.random()
    if kind < LARGE:
        placements = [_place(rng, first, rng.uniform(0.55, 0.97), 0.06, store, size)]
    elif kind < LARGE + ANYWHERE:
        placements = [_place(rng, first, rng.uniform(0.18, 0.55), 1.0, store, size)]
    else:
        placements = _several(rng, first, others, store, size)
    return Layers(background, tuple(placements))


def sample_background(rng: np.random.Generator) -> Background:
    """White (pure, or the procedural world's), a plain colour, or a gradient between two of them."""
    kind = rng.random()
    if kind < WHITE:
        return Background((1.0, 1.0, 1.0) if rng.random() < 0.5 else COLORS["white"])
    if kind < WHITE + PLAIN:
        return Background(_color(rng))
    return Background(_color(rng), _color(rng), float(rng.uniform(0.0, 2.0 * math.pi)))


def _color(rng: np.random.Generator) -> RGB:
    """One of the world's colours, as it varies them, or any other."""
    if rng.random() < 0.6:
        names = tuple(COLORS)
        return jittered(rng, COLORS[names[int(rng.integers(len(names)))]])
    red, green, blue = rng.random(3).tolist()
    return red, green, blue


def _place(
    rng: np.random.Generator, row: int, share: float, spread: float, store: SpriteStore, size: tuple[int, int]
) -> Placement:
    """A sticker whose longer side is ``share`` of the image's shorter one, around the middle.

    ``spread`` is the share of the free space that its centre may use, 1 = up to the edges.
    """
    left, top, right, bottom = (int(value) for value in store.boxes[row])
    scale = share * min(size) / max(right - left, bottom - top)
    width, height = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    x, y = (
        round((whole - part) * (0.5 + spread * rng.uniform(-0.5, 0.5)))
        for whole, part in ((size[1], width), (size[0], height))
    )
    recolor = _recolor(rng, row, store) if rng.random() < RECOLORED else None
    return Placement(row, x, y, width, height, bool(rng.random() < MIRRORED), recolor)


def _recolor(rng: np.random.Generator, row: int, store: SpriteStore) -> Recolor:
    """One of the world's colours where the sticker can take it, else any turn of its hues."""
    found = store.profiles[row]
    if found.recolorable and rng.random() < 0.6:
        names = tuple(COLORS)
        return recolor_to(found, names[int(rng.integers(len(names)))])
    return Recolor(turn=float(rng.uniform(0.5, 2.0 * math.pi - 0.5)))


def _several(
    rng: np.random.Generator, first: int, others: Sequence[int], store: SpriteStore, size: tuple[int, int]
) -> list[Placement]:
    """Two to ``MOST`` stickers apart from each other, as many as have room."""
    count = int(rng.integers(2, MOST + 1))
    largest = {2: 0.48, 3: 0.40}.get(count, 0.32)
    placements: list[Placement] = []
    for row in (first, *others[: count - 1]):
        for _ in range(_TRIES):
            place = _place(rng, row, rng.uniform(0.16, largest), 1.0, store, size)
            if all(_apart(place, other) for other in placements):
                placements.append(place)
                break
    return placements


def _apart(one: Placement, other: Placement, gap: int = 3) -> bool:
    return (
        one.left + one.width + gap <= other.left or other.left + other.width + gap <= one.left
        or one.top + one.height + gap <= other.top or other.top + other.height + gap <= one.top
    )  # fmt: skip
