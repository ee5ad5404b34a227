"""Paints scenes of shapes and stickers: shapes by the procedural world's renderer, stickers over them.

Letters: B scenes, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from microforge.data.stickers.compositing import Placement, Window, sprite_part
from microforge.data.stickers.recolor import recolor_to
from microforge.data.stickers.scenes import StickerObject
from microforge.data.stickers.store import SpriteStore
from microforge.data.world.renderer import object_mask, render
from microforge.data.world.scenes import Scene, SceneObject


def paint_scenes(
    scenes: Sequence[Scene],
    store: SpriteStore,
    size: tuple[int, int],
    device: str = "cpu",
    alpha: bool = False,
) -> Tensor:
    """Paint ``scenes`` at ``size`` (height, width).

    Args:
        alpha: a fourth channel with the coverage of all objects.

    Returns:
        float32 (B, 3, H, W) in [0, 1]; (B, 4, H, W) with ``alpha``, whose colours are those of the opaque image.
    """
    shapes = [
        replace(scene, objects=tuple(item for item in scene.objects if not isinstance(item, StickerObject)))
        for scene in scenes
    ]
    images = render(shapes, *size)
    whole = Window(0, 0, size[1], size[0])
    for image, scene in zip(images, scenes, strict=True):
        for item in scene.objects:
            part = (
                sprite_part(place(item, store, size), store, whole)
                if isinstance(item, StickerObject)
                else None
            )
            if part is not None:
                rows, columns, values = part
                pixels = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)
                image[:, rows, columns] = image[:, rows, columns] * (1.0 - pixels[3:]) + pixels[:3]
    images.clamp_(0.0, 1.0)
    if alpha:
        images = torch.cat([images, coverage(scenes, store, size)], dim=1)
    return images.to(device)


def coverage(scenes: Sequence[Scene], store: SpriteStore, size: tuple[int, int]) -> Tensor:
    """How much of every pixel objects cover, float32 (B, 1, H, W)."""
    masks = []
    for scene in scenes:
        uncovered = torch.ones(size)
        for item in scene.objects:
            uncovered = uncovered * (1.0 - sticker_mask(item, store, size))
        masks.append(1.0 - uncovered)
    return torch.stack(masks)[:, None]


def sticker_mask(item: SceneObject, store: SpriteStore, size: tuple[int, int]) -> Tensor:
    """The coverage of one object, sticker or shape, float32 (H, W)."""
    if not isinstance(item, StickerObject):
        return object_mask(item, *size)
    mask = torch.zeros(size)
    part = sprite_part(place(item, store, size), store, Window(0, 0, size[1], size[0]))
    if part is not None:
        rows, columns, values = part
        mask[rows, columns] = torch.from_numpy(np.ascontiguousarray(values[..., 3]))
    return mask


def place(item: StickerObject, store: SpriteStore, size: tuple[int, int]) -> Placement:
    """The pixels that a sticker covers in an image of ``size``."""
    left, top, right, bottom = (int(value) for value in store.boxes[item.row])
    scale = 2.0 * item.radius * min(size) / max(right - left, bottom - top)
    width, height = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    recolor = recolor_to(store.profiles[item.row], item.color) if item.recolored else None
    x, y = round(item.x * size[1] - width / 2), round(item.y * size[0] - height / 2)
    return Placement(item.row, x, y, width, height, recolor=recolor)
