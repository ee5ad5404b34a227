"""Scenes of the procedural world: coloured shapes on a background, as data. No torch.

A ``Scene`` is a background and one to four objects that never touch. ``x`` and ``y`` are fractions of the image's width
and height, measured from the top left corner; ``radius`` is a fraction of the shorter side. Scenes are laid out for a
square image; in a wider or taller image the objects only move apart.

Some compositions are held out (``HELD_OUT``, ``HELD_OUT_RELATIONS``). Training never shows them, so evaluating on them
measures whether a model composes or memorizes.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from microforge.errors import DataError

RGB = tuple[float, float, float]

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
COLORS: Mapping[str, RGB] = types.MappingProxyType({
    "red": (0.90, 0.08, 0.12),
    "orange": (1.00, 0.50, 0.00),
    "yellow": (1.00, 0.92, 0.10),
    "green": (0.08, 0.62, 0.18),
    "cyan": (0.10, 0.85, 0.92),
    "blue": (0.10, 0.22, 0.90),
    "purple": (0.56, 0.10, 0.72),
    "pink": (1.00, 0.55, 0.78),
    "brown": (0.46, 0.25, 0.06),
    "black": (0.03, 0.03, 0.03),
    "gray": (0.52, 0.52, 0.52),
    "white": (0.98, 0.98, 0.98),
})  # fmt: skip
SIZES: Mapping[str, float] = types.MappingProxyType({"small": 0.12, "medium": 0.18, "large": 0.26})
KINDS: Mapping[str, float] = types.MappingProxyType(
    {"single": 0.10, "two": 0.28, "counting": 0.30, "position": 0.12, "attribute": 0.20}
)
#: Relation -> (axis, sign) of the first object's centre minus the second's; the sign of "left of" on axis x is -1.
RELATIONS: Mapping[str, tuple[int, int]] = types.MappingProxyType(
    {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
)
#: Name of a region of the image -> its centre.
PLACES: Mapping[str, tuple[float, float]] = types.MappingProxyType({
    "center": (0.50, 0.50), "left": (0.24, 0.50), "right": (0.76, 0.50), "top": (0.50, 0.24),
    "bottom": (0.50, 0.76), "top left": (0.24, 0.24), "top right": (0.76, 0.24),
    "bottom left": (0.24, 0.76), "bottom right": (0.76, 0.76),
})  # fmt: skip

#: (color, shape) pairs that training never shows: 10 of 96, with no colour and no shape more than twice.
HELD_OUT = frozenset({
    ("red", "star"), ("orange", "diamond"), ("yellow", "heart"), ("black", "triangle"), ("cyan", "cross"),
    ("blue", "ring"), ("purple", "square"), ("pink", "circle"), ("brown", "heart"), ("gray", "star"),
})  # fmt: skip
#: (relation, first shape, second shape) that training never shows, in either reading direction.
HELD_OUT_RELATIONS = frozenset({
    ("left of", "star", "cross"), ("left of", "circle", "heart"),
    ("above", "square", "triangle"), ("above", "ring", "diamond"),
})  # fmt: skip
MIRROR: Mapping[str, str] = types.MappingProxyType(
    {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
)

#: Every shape fits in a circle of EXTENT * radius around its centre.
EXTENT = 1.2
FRAME_MARGIN = 0.015
OBJECT_GAP = 0.03
RADIUS_JITTER = 0.06
COLOR_JITTER = 0.03
#: Smallest RGB distance between the colour of an object and that of the background.
MIN_CONTRAST = 0.45
_LAYOUT_TRIES = 40
_VIVID = tuple(name for name in COLORS if name not in ("white", "gray", "black"))


@dataclass(frozen=True)
class SceneObject:
    """One shape with its centre (fractions of width and height), radius (of the shorter side) and RGB in [0, 1]."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    radius: float
    rgb: RGB


@dataclass(frozen=True)
class Scene:
    """A background and the objects on it; ``relation`` is that of ``objects[0]`` to ``objects[1]``, or None."""

    background: str
    background_rgb: RGB
    objects: tuple[SceneObject, ...]
    kind: str
    relation: str | None


def color_distance(first: str, second: str) -> float:
    """Euclidean RGB distance between two named colours, from 0 to sqrt(3)."""
    return math.dist(COLORS[first], COLORS[second])


def place_of(x: float, y: float) -> str:
    """Name of the region that holds the centre (x, y); regions are separated at 0.4 and 0.6 on both axes."""
    column = "left" if x < 0.4 else "right" if x > 0.6 else ""
    row = "top" if y < 0.4 else "bottom" if y > 0.6 else ""
    return f"{row} {column}".strip() or "center"


def relation_holds(relation: str, first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether the centre ``first`` has ``relation`` to ``second``, and the distance is larger on that axis."""
    axis, sign = RELATIONS[relation]
    along, across = first[axis] - second[axis], first[1 - axis] - second[1 - axis]
    return along * sign > 0 and abs(along) > abs(across)


def relation_is_held_out(relation: str, first: str, second: str) -> bool:
    """Whether this relation of two shapes, or its mirror image, is held out from training."""
    return (relation, first, second) in HELD_OUT_RELATIONS or (
        MIRROR[relation], second, first,
    ) in HELD_OUT_RELATIONS  # fmt: skip


def is_held_out(scene: Scene) -> bool:
    """Whether the scene shows a composition that is held out from training."""
    if any((item.color, item.shape) in HELD_OUT for item in scene.objects):
        return True
    if scene.relation is None:
        return False
    return relation_is_held_out(scene.relation, scene.objects[0].shape, scene.objects[1].shape)


def sample_scene(rng: np.random.Generator, kind: str | None = None, held_out: bool = False) -> Scene:
    """Sample one scene.

    Args:
        rng: the only source of randomness; the same state gives the same scene.
        kind: a key of ``KINDS``; None to sample it with the probabilities there.
        held_out: False for a scene without a held-out composition, True for one with at least one.

    Raises:
        DataError: for an unknown kind.
    """
    kind = _weighted(rng, KINDS) if kind is None else kind
    if kind not in KINDS:
        raise DataError(f"unknown scene kind {kind!r}; allowed: {', '.join(KINDS)}")
    relation = choice(rng, tuple(RELATIONS)) if kind == "position" else None
    identities = _identities(rng, kind, relation, held_out)
    if kind == "single":
        objects: tuple[SceneObject, ...] = (_single(rng, *identities[0]),)
    elif relation is not None:
        objects = _related(rng, relation, identities)
    else:
        objects = _scattered(rng, identities, same_size=kind == "counting")
    background = sample_background(rng, [item.color for item in objects])
    return Scene(background, COLORS[background], objects, kind, relation)


def sample_background(rng: np.random.Generator, colors: Iterable[str]) -> str:
    """Sample a background with enough contrast to all ``colors``: 55 % white, 15 % gray or black."""
    object_colors = tuple(colors)
    while True:
        number = rng.random()
        name = "white" if number < 0.55 else choice(rng, ("gray", "black") if number < 0.70 else _VIVID)
        if all(color_distance(name, color) >= MIN_CONTRAST for color in object_colors):
            return name


def make_object(
    rng: np.random.Generator, color: str, shape: str, size: str, x: float, y: float
) -> SceneObject:
    """Create an object with jittered radius and colour; its centre is moved if it would leave the frame."""
    radius = SIZES[size] * rng.uniform(1 - RADIUS_JITTER, 1 + RADIUS_JITTER)
    edge = EXTENT * radius + FRAME_MARGIN
    x, y = (min(max(value, edge), 1 - edge) for value in (x, y))
    return SceneObject(shape, color, size, x, y, radius, jittered(rng, COLORS[color]))


def add_object(
    rng: np.random.Generator, objects: Sequence[SceneObject], color: str, shape: str, size: str
) -> SceneObject | None:
    """Sample an object at a random free position; None when no position was free in ``_LAYOUT_TRIES`` tries."""
    for _ in range(_LAYOUT_TRIES):
        item = make_object(rng, color, shape, size, rng.random(), rng.random())
        if is_clear(item, objects):
            return item
    return None


def is_clear(item: SceneObject, others: Iterable[SceneObject]) -> bool:
    """Whether ``item`` touches no other object in a square image, the tightest case."""
    return all(
        math.hypot(item.x - other.x, item.y - other.y) >= EXTENT * (item.radius + other.radius) + OBJECT_GAP
        for other in others
    )


def jittered(rng: np.random.Generator, rgb: RGB) -> RGB:
    """``rgb`` with each channel shifted by at most ``COLOR_JITTER`` and clipped to [0, 1]."""
    red, green, blue = np.clip(
        np.asarray(rgb) + rng.uniform(-COLOR_JITTER, COLOR_JITTER, 3), 0.0, 1.0
    ).tolist()
    return red, green, blue


def choice(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of ``options``, each equally likely; much faster than ``Generator.choice``."""
    return options[int(rng.integers(len(options)))]


def _weighted(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    number = rng.random() * sum(weights.values())
    for name, weight in weights.items():
        number -= weight
        if number < 0:
            return name
    return next(reversed(tuple(weights)))


def _identities(
    rng: np.random.Generator, kind: str, relation: str | None, held_out: bool
) -> list[tuple[str, str]]:
    """Sample (color, shape) of each object; rejection sampling ensures that the scene is held out or not."""
    while True:
        pairs = _sample_pairs(rng, kind, relation, held_out)
        if pairs is not None and _has_held_out(pairs, relation) == held_out:
            return pairs


def _sample_pairs(
    rng: np.random.Generator, kind: str, relation: str | None, held_out: bool
) -> list[tuple[str, str]] | None:
    """One try of ``_identities``; None where two objects have the same shape, or colour in an attribute scene."""
    pairs = [(choice(rng, tuple(COLORS)), choice(rng, SHAPES)) for _ in range(2)]
    if held_out and (relation is None or rng.random() < 0.5):
        pairs[int(rng.integers(2))] = sorted(HELD_OUT)[int(rng.integers(len(HELD_OUT)))]
    if kind == "single":
        return pairs[:1]
    if kind == "counting":
        return pairs[:1] * int(rng.integers(2, 5))
    (first_color, first_shape), (second_color, second_shape) = pairs
    alike = first_shape == second_shape or (kind == "attribute" and first_color == second_color)
    return None if alike else pairs


def _has_held_out(pairs: Sequence[tuple[str, str]], relation: str | None) -> bool:
    if any(pair in HELD_OUT for pair in pairs):
        return True
    return relation is not None and relation_is_held_out(relation, pairs[0][1], pairs[1][1])


def _single(rng: np.random.Generator, color: str, shape: str) -> SceneObject:
    size = _weighted(rng, {"small": 0.15, "medium": 0.45, "large": 0.40})
    place = "center" if rng.random() < 0.5 else choice(rng, tuple(PLACES)[1:])
    x, y = PLACES[place]
    return make_object(rng, color, shape, size, x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.04, 0.04))


def _related(
    rng: np.random.Generator, relation: str, identities: Sequence[tuple[str, str]]
) -> tuple[SceneObject, ...]:
    axis, sign = RELATIONS[relation]
    while True:
        middle = rng.uniform(0.3, 0.7)
        objects = []
        for (color, shape), side in zip(identities, (sign, -sign), strict=True):
            center = [middle + rng.uniform(-0.06, 0.06)] * 2
            center[axis] = 0.5 + side * rng.uniform(0.17, 0.30)
            size = _weighted(rng, {"small": 0.45, "medium": 0.45, "large": 0.10})
            objects.append(make_object(rng, color, shape, size, *center))
        first, second = objects
        if is_clear(first, [second]) and relation_holds(relation, (first.x, first.y), (second.x, second.y)):
            return first, second


def _scattered(
    rng: np.random.Generator, identities: Sequence[tuple[str, str]], same_size: bool
) -> tuple[SceneObject, ...]:
    medium, large = {2: (0.40, 0.15), 3: (0.15, 0.0)}.get(
        len(identities), (0.0, 0.0)
    )  # larger ones would not fit
    weights = {"small": 0.45, "medium": medium, "large": large}
    while True:
        size = _weighted(rng, weights)
        for _ in range(_LAYOUT_TRIES):
            objects: list[SceneObject] = []
            for color, shape in identities:
                size = size if same_size or not objects else _weighted(rng, weights)
                item = make_object(rng, color, shape, size, rng.random(), rng.random())
                if not is_clear(item, objects):
                    break
                objects.append(item)
            if len(objects) == len(identities):
                return tuple(objects)
