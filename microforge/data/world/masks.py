"""Random masks for inpainting: boxes, brush strokes and object shapes, at any image size.

Brush strokes follow "Free-Form Image Inpainting with Gated Convolution" (arXiv 1806.03589): a few thick random
polylines. A mask is 1 on pixels to fill and 0 on pixels to preserve.

Letters: H W image height and width.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from microforge.data.world.renderer import object_mask
from microforge.data.world.scenes import Scene, SceneObject, choice
from microforge.errors import DataError

#: Range of a box's sides, as shares of the image's sides.
BOX = (0.2, 0.6)
#: Range of a brush's width, as a share of the shorter side.
BRUSH = (0.06, 0.16)
#: Range of the margin around an object, as a share of the shorter side: users do not mask to the pixel.
MARGIN = (0.02, 0.08)


def sample_mask(
    rng: np.random.Generator, height: int, width: int, scene: Scene | None = None, kind: str | None = None
) -> Tensor:
    """Sample one mask.

    Args:
        rng: the only source of randomness.
        height: height of the image in pixels.
        width: width of the image in pixels.
        scene: scene that the image shows; object-shaped masks need one with an object.
        kind: a key of ``KINDS``; None for any that is possible, each equally likely.

    Returns:
        float32 (1, H, W) of zeros and ones, with at least one zero.

    Raises:
        DataError: for an unknown kind, or the kind "object" without an object.
    """
    objects = () if scene is None else scene.objects
    if kind is None:
        kind = choice(rng, tuple(KINDS) if objects else tuple(name for name in KINDS if name != "object"))
    if kind not in KINDS:
        raise DataError(f"unknown kind of mask {kind!r}; allowed: {', '.join(KINDS)}")
    if kind == "object" and not objects:
        raise DataError("an object-shaped mask needs a scene with an object; choose box or stroke")
    mask = KINDS[kind](rng, height, width, objects)
    if bool(mask.all()):  # possible in an image of a few pixels
        mask[0, :1] = 0.0
    return mask[None]


def grown(mask: Tensor, pixels: int) -> Tensor:
    """``mask`` (H, W) of zeros and ones, dilated by ``pixels`` in every direction."""
    if pixels < 1:
        return mask
    return F.max_pool2d(mask[None, None], 2 * pixels + 1, stride=1, padding=pixels)[0, 0]


def _box(rng: np.random.Generator, height: int, width: int, objects: tuple[SceneObject, ...]) -> Tensor:
    mask = torch.zeros(height, width)
    h, w = (max(1, round(side * rng.uniform(*BOX))) for side in (height, width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    mask[top : top + h, left : left + w] = 1.0
    return mask


def _stroke(rng: np.random.Generator, height: int, width: int, objects: tuple[SceneObject, ...]) -> Tensor:
    """One to three polylines of three to six points, with round joints."""
    side = min(height, width)
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(1, 4))):
        brush = max(1.0, side * rng.uniform(*BRUSH))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        angle = rng.uniform(0, 2 * math.pi)
        points = [(x, y)]
        for _ in range(int(rng.integers(2, 6))):
            angle += rng.uniform(-0.4 * math.pi, 0.4 * math.pi)
            reach = side * rng.uniform(0.1, 0.3)
            x = min(max(x + reach * math.cos(angle), 0.0), width - 1.0)
            y = min(max(y + reach * math.sin(angle), 0.0), height - 1.0)
            points.append((x, y))
        pen.line(points, fill=1, width=max(1, round(brush)))
        for x, y in points:
            pen.ellipse((x - brush / 2, y - brush / 2, x + brush / 2, y + brush / 2), fill=1)
    return torch.from_numpy(np.array(canvas, dtype=np.float32))


def _object(rng: np.random.Generator, height: int, width: int, objects: tuple[SceneObject, ...]) -> Tensor:
    """One whole object and a margin around it, so that only the prompt says what was there."""
    item = objects[int(rng.integers(len(objects)))]
    covered = (object_mask(item, height, width) > 0).float()
    return grown(covered, max(1, round(min(height, width) * rng.uniform(*MARGIN))))


#: Kind of mask -> function that samples one of shape (H, W).
KINDS: Mapping[str, Callable[[np.random.Generator, int, int, tuple[SceneObject, ...]], Tensor]] = (
    types.MappingProxyType({"box": _box, "stroke": _stroke, "object": _object})
)
