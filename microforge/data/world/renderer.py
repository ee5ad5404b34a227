"""Renders scenes with signed distance fields: anti-aliased, deterministic, at any size, on CPU or GPU.

Every shape is a function ``(x, y) -> distance`` in units of the object's radius, negative inside, with y pointing
down (https://iquilezles.org/articles/distfunctions2d). Coverage falls linearly over one pixel. All objects of one shape
and size are evaluated together, each in its own window of the image, and then painted in scene order.

Letters: B scenes, M objects of one group, H W image height and width, h w window height and width.
"""

from __future__ import annotations

import itertools
import math
import types
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from microforge.data.world.scenes import EXTENT, Scene, SceneObject

Point = tuple[float, float]


def render(scenes: Sequence[Scene], height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Render ``scenes``.

    Args:
        scenes: the scenes (B).
        height: height of the images in pixels.
        width: width of the images in pixels.
        device: where the images are computed.

    Returns:
        float32 (B, 3, height, width) in [0, 1]. ``x`` and ``y`` of an object scale with the width and the
        height, its radius with the shorter side, so shapes are never stretched.
    """
    colors = torch.tensor([scene.background_rgb for scene in scenes], dtype=torch.float32, device=device)
    images = colors.reshape(-1, 3, 1, 1).expand(-1, 3, height, width).clone()
    painted: dict[tuple[int, int], tuple[slice, slice, Tensor]] = {}
    for (shape, _), members in _groups(scenes).items():
        keys = [key for key, _ in members]
        windows = _coverage(shape, [item for _, item in members], height, width, device)
        painted.update(zip(keys, windows, strict=True))
    rgb = torch.tensor(
        [item.rgb for scene in scenes for item in scene.objects], dtype=torch.float32, device=device
    )
    for key, color in zip(sorted(painted), rgb.reshape(-1, 3, 1, 1), strict=True):
        rows, columns, mask = painted[key]
        images[key[0], :, rows, columns].lerp_(color, mask)
    return images


def object_mask(item: SceneObject, height: int, width: int) -> Tensor:
    """Coverage of each pixel by one object: float32 (height, width) in [0, 1]."""
    mask = torch.zeros(height, width)
    [(rows, columns, window)] = _coverage(item.shape, [item], height, width, "cpu")
    mask[rows, columns] = window
    return mask


def scene_coverage(scenes: Sequence[Scene], height: int, width: int) -> Tensor:
    """How much of each pixel the objects of a scene cover: float32 (B, 1, height, width) in [0, 1]."""
    masks = []
    for scene in scenes:
        uncovered = torch.ones(height, width)
        for item in scene.objects:
            uncovered = uncovered * (1.0 - object_mask(item, height, width))
        masks.append(1.0 - uncovered)
    return torch.stack(masks)[:, None]


def _groups(
    scenes: Sequence[Scene],
) -> dict[tuple[str, str], list[tuple[tuple[int, int], SceneObject]]]:
    """Group objects by (shape, size): one shape has one distance function, and one size one window."""
    groups: dict[tuple[str, str], list[tuple[tuple[int, int], SceneObject]]] = defaultdict(list)
    for index, scene in enumerate(scenes):
        for order, item in enumerate(scene.objects):
            groups[item.shape, item.size].append(((index, order), item))
    return groups


def _coverage(
    shape: str, items: Sequence[SceneObject], height: int, width: int, device: torch.device | str
) -> list[tuple[slice, slice, Tensor]]:
    """Rows and columns of each object's window, and the coverage (h, w) inside it."""
    side = min(height, width)
    reach = EXTENT * side * max(item.radius for item in items) + 1.0
    h, w = (min(math.ceil(2 * reach) + 1, limit) for limit in (height, width))
    corners = [
        (_start(item.y * height - reach, h, height), _start(item.x * width - reach, w, width))
        for item in items
    ]
    # Coordinates relative to the window's corner, computed in double precision: float32 then rounds them once.
    rows = [
        (item.x * width - left - 0.5, item.y * height - top - 0.5, item.radius * side)
        for item, (top, left) in zip(items, corners, strict=True)
    ]
    x, y, radius = torch.tensor(rows, dtype=torch.float32, device=device).reshape(-1, 3, 1, 1).unbind(1)
    dx = (torch.arange(w, dtype=torch.float32, device=device) - x) / radius
    dy = (torch.arange(h, dtype=torch.float32, device=device)[:, None] - y) / radius
    distance = _DISTANCES[shape](dx.expand(-1, h, w), dy.expand(-1, h, w))
    mask = (0.5 - distance * radius).clamp_(0.0, 1.0)
    return [
        (slice(top, top + h), slice(left, left + w), window)
        for (top, left), window in zip(corners, mask, strict=True)
    ]


def _start(position: float, window: int, limit: int) -> int:
    return min(max(math.floor(position), 0), limit - window)


def _half_outline(*points: Point) -> Callable[[Tensor, Tensor], Tensor]:
    """Distance to a polygon that is symmetric about x = 0; ``points`` are its right half, from top to bottom."""

    def distance(x: Tensor, y: Tensor) -> Tensor:
        x = x.abs()
        nearest = torch.full_like(x, math.inf)
        inside = torch.zeros_like(x, dtype=torch.bool)
        for (ax, ay), (bx, by) in itertools.pairwise(points):
            ex, ey = bx - ax, by - ay
            wx, wy = x - ax, y - ay
            along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp_(0.0, 1.0)
            nearest = torch.minimum(nearest, (wx - ex * along).square() + (wy - ey * along).square())
            if ey != 0.0:  # a ray to the right crosses this edge: even-odd rule
                inside ^= ((y >= ay) != (y >= by)) & (wx < wy * (ex / ey))
        return torch.where(inside, -nearest.sqrt(), nearest.sqrt())

    return distance


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1.0


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.80).abs() - 0.28


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return torch.hypot(dx.clamp(min=0.0), dy.clamp(min=0.0)) + torch.maximum(dx, dy).clamp(max=0.0)


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.84, 0.84)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 1.10, 0.40), _box(x, y, 0.40, 1.10))


def _star_outline(outer: float, inner: float) -> tuple[Point, ...]:
    """Right half of a five-pointed star with one tip up."""
    radii = (outer, inner, outer, inner, outer, inner)
    return tuple((r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii))


_LOBE, _LOBE_X, _LOBE_Y, _TIP = 0.54, 0.50, -0.42, 1.12


def _heart_body() -> tuple[Point, ...]:
    """Right half of a heart without its round lobes: notch, point of contact with the lobe, and tip."""
    notch = _LOBE_Y - math.sqrt(_LOBE**2 - _LOBE_X**2)
    # The tangent from the tip to the lobe: right angle at the point of contact.
    to_x, to_y = _LOBE_X, _LOBE_Y - _TIP
    reach = math.hypot(to_x, to_y)
    turn = math.asin(_LOBE / reach)
    length = math.sqrt(reach**2 - _LOBE**2) / reach
    touch_x = length * (to_x * math.cos(turn) - to_y * math.sin(turn))
    touch_y = length * (to_x * math.sin(turn) + to_y * math.cos(turn))
    return (0.0, notch), (touch_x, _TIP + touch_y), (0.0, _TIP)


_body = _half_outline(*_heart_body())


def _heart(x: Tensor, y: Tensor) -> Tensor:
    lobe = torch.hypot(x.abs() - _LOBE_X, y - _LOBE_Y) - _LOBE
    return torch.minimum(lobe, _body(x, y))


_DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = types.MappingProxyType({
    "circle": _circle,
    "square": _square,
    "triangle": _half_outline((0.0, -1.12), (0.95, 0.73), (0.0, 0.73)),
    "star": _half_outline(*_star_outline(1.2, 0.54)),
    "heart": _heart,
    "diamond": _half_outline((0.0, -1.2), (0.92, 0.0), (0.0, 1.2)),
    "cross": _cross,
    "ring": _ring,
})  # fmt: skip
