"""Scenes of stickers, in the scene graphs of the procedural world: what is in an image, before any pixel is painted.

A ``StickerObject`` is a ``SceneObject`` whose shape is a subject; ``radius`` is half the longer side of what can be seen of
it. Shapes and stickers may share a scene.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from microforge.data.stickers.world import StickerWorld
from microforge.data.world.scenes import (
    COLORS,
    FRAME_MARGIN,
    HELD_OUT,
    PLACES,
    RELATIONS,
    RGB,
    SHAPES,
    Scene,
    SceneObject,
    choice,
    is_clear,
    jittered,
    relation_holds,
)
from microforge.errors import DataError

#: Kinds of scene and how often each is sampled: most have one subject, large in the middle.
KINDS: Mapping[str, float] = types.MappingProxyType(
    {"portrait": 0.50, "single": 0.09, "two": 0.15, "counting": 0.12, "position": 0.08, "attribute": 0.06}
)
#: What may be held out, by the names that evaluations report.
SPLITS = ("style", "color", "pair")
#: Size word -> radius of a sticker.
SIZES: Mapping[str, float] = types.MappingProxyType({"small": 0.15, "medium": 0.20, "large": 0.29})
PORTRAIT = (0.37, 0.47)
#: Radius of each of so many.
_COUNTED = types.MappingProxyType({2: 0.21, 3: 0.17, 4: 0.155})
_RECOLORED, _SHAPE_SHARE, _SAME_STYLE = 0.22, 0.10, 0.85
_RADIUS_JITTER = 0.06
_WHITE_SHARE = 0.6
#: Smallest RGB distance between a sticker's mean colour and the background.
_CONTRAST = 0.30
_TRIES = 60


@dataclass(frozen=True)
class StickerObject(SceneObject):
    """A sticker in a scene: ``shape`` is its subject, ``color`` a colour word or "" where none fits, ``rgb`` its mean colour."""

    row: int
    style: str
    recolored: bool


def sample_sticker_scene(
    world: StickerWorld, rng: np.random.Generator, kind: str | None = None, held_out: str | None = None
) -> Scene:
    """Draw one scene.

    Args:
        kind: one of ``KINDS``; None draws it with the weights given there.
        held_out: None never yields a composition that training does not show; one of ``SPLITS`` always yields one of that kind.

    Raises:
        DataError: for an unknown kind or split, or a split of which this set has nothing.
    """
    if held_out is not None and held_out not in SPLITS:
        raise DataError(f"unknown split {held_out!r}; allowed: {', '.join(SPLITS)}")
    if kind is not None and kind not in KINDS:
        raise DataError(f"unknown kind of scene {kind!r}; allowed: {', '.join(KINDS)}")
    for _ in range(2000):
        drawn = kind or (choice(rng, ("two", "position")) if held_out == "pair" else _weighted(rng, KINDS))
        scene = _draw(world, rng, drawn, held_out)
        if scene is not None and held_out_splits(world, scene) == ({held_out} if held_out else set()):
            return scene
    raise DataError(
        f"no scene of kind {kind} and split {held_out} was found in 2000 tries; the set is too small for it"
    )


def held_out_splits(world: StickerWorld, scene: Scene) -> set[str]:
    """Which of ``SPLITS`` the scene belongs to; training shows those of none."""
    stickers = [item for item in scene.objects if isinstance(item, StickerObject)]
    found = {"style" for item in stickers if world.hides_picture(item.shape, item.style)}
    found |= {"color" for item in stickers if item.recolored and world.hides_color(item.shape, item.color)}
    if (
        len(scene.objects) == 2
        and len(stickers) == 2
        and world.hides_pair(stickers[0].shape, stickers[1].shape)
    ):
        found.add("pair")
    return found


def make_sticker(
    world: StickerWorld, rng: np.random.Generator, row: int, color: str | None, size: str, center: tuple[float, float],
    radius: float,
) -> StickerObject:  # fmt: skip
    """A sticker with jittered radius, its centre moved just enough to stay inside the frame; ``color`` None is its own."""
    radius *= rng.uniform(1 - _RADIUS_JITTER, 1 + _RADIUS_JITTER)
    edge = min(radius + FRAME_MARGIN, 0.5)
    x, y = (min(max(value, edge), 1 - edge) for value in center)
    item = world.stickers[row]
    word = color or world.natural_color(row) or ""
    rgb = COLORS[color] if color else world.store.profiles[row].mean
    return StickerObject(item.subject, word, size, x, y, radius, rgb, row, item.style, color is not None)


def free_background(rng: np.random.Generator, colors: Sequence[RGB]) -> str:
    """A background colour word that stands out from every one of ``colors``: mostly white."""
    names = tuple(COLORS)
    for _ in range(_TRIES):
        name = "white" if rng.random() < _WHITE_SHARE else choice(rng, names)
        if all(math.dist(COLORS[name], rgb) >= _CONTRAST for rgb in colors):
            return name
    return max(names, key=lambda name: min((math.dist(COLORS[name], rgb) for rgb in colors), default=1.0))


@dataclass(frozen=True)
class _Identity:
    """What an object is before it has a place: a picture and its colour, or a shape."""

    row: int = -1
    color: str | None = None
    shape: str = ""


def _draw(world: StickerWorld, rng: np.random.Generator, kind: str, held_out: str | None) -> Scene | None:
    identities = _identities(world, rng, kind, held_out)
    if identities is None:
        return None
    relation = choice(rng, tuple(RELATIONS)) if kind == "position" else None
    if kind in ("portrait", "single"):
        objects: tuple[SceneObject, ...] | None = (_alone(world, rng, identities[0], kind),)
    elif relation is not None:
        objects = _related(world, rng, relation, identities)
    else:
        objects = _scattered(world, rng, identities, same_size=kind == "counting")
    if objects is None:
        return None
    background = free_background(rng, [item.rgb for item in objects])
    return Scene(background, COLORS[background], objects, kind, relation)


def _identities(
    world: StickerWorld, rng: np.random.Generator, kind: str, held_out: str | None
) -> list[_Identity] | None:
    """What the objects of a scene are; None where this draw gives nothing of the split."""
    style = choice(rng, world.styles) if rng.random() < _SAME_STYLE else None
    count = 2 if kind in ("two", "position", "attribute") else 1
    identities = [
        _identity(world, rng, style, colored=kind == "attribute", company=count > 1 or kind == "counting",
                  held_out=held_out if number == 0 else None)
        for number in range(count)
    ]  # fmt: skip
    found = [item for item in identities if item is not None]
    if len(found) < count:
        return None
    if count == 2 and _same(world, *found):
        return None
    if kind == "attribute" and len({item.color for item in found}) < 2:
        return None
    return found * int(rng.integers(2, 5)) if kind == "counting" else found


def _same(world: StickerWorld, one: _Identity, other: _Identity) -> bool:
    """Whether two identities are the same subject or shape."""
    subjects = [world.stickers[item.row].subject if item.row >= 0 else item.shape for item in (one, other)]
    return subjects[0] == subjects[1]


def _identity(
    world: StickerWorld,
    rng: np.random.Generator,
    style: str | None,
    colored: bool,
    company: bool,
    held_out: str | None,
) -> _Identity | None:
    """A sticker, or now and then a shape; ``colored``: one whose colour is said."""
    if company and held_out is None and rng.random() < _SHAPE_SHARE:
        while True:
            color, shape = choice(rng, tuple(COLORS)), choice(rng, SHAPES)
            if (color, shape) not in HELD_OUT:
                return _Identity(shape=shape, color=color)
    subject = world.draw_subject(rng, company)
    styles = world.seen_styles[subject]
    if held_out == "style":
        styles = tuple(name for name in world.rows[subject] if world.hides_picture(subject, name))
        if not styles:
            return None
    row = world.rows[subject][style if style in styles else choice(rng, styles)]
    options = [
        color for color in world.colors(row) if world.hides_color(subject, color) == (held_out == "color")
    ]
    if held_out == "color" or colored or rng.random() < _RECOLORED:
        if not options:
            return None if held_out == "color" or colored else _Identity(row)
        return _Identity(row, choice(rng, options))
    return _Identity(row)


def _place(
    world: StickerWorld,
    rng: np.random.Generator,
    identity: _Identity,
    size: str,
    center: tuple[float, float],
    radius: float,
) -> SceneObject:
    if identity.row >= 0:
        return make_sticker(world, rng, identity.row, identity.color, size, center, radius)
    assert identity.color is not None
    radius *= rng.uniform(1 - _RADIUS_JITTER, 1 + _RADIUS_JITTER) / 1.1  # a shape reaches beyond its radius
    edge = 1.2 * radius + FRAME_MARGIN
    x, y = (min(max(value, edge), 1 - edge) for value in center)
    return SceneObject(
        identity.shape, identity.color, size, x, y, radius, jittered(rng, COLORS[identity.color])
    )


def _alone(world: StickerWorld, rng: np.random.Generator, identity: _Identity, kind: str) -> SceneObject:
    if kind == "portrait":
        center = (0.5 + rng.uniform(-0.02, 0.02), 0.5 + rng.uniform(-0.02, 0.02))
        return _place(world, rng, identity, "", center, rng.uniform(*PORTRAIT) / (1 + _RADIUS_JITTER))
    size = choice(rng, tuple(SIZES))
    x, y = PLACES[choice(rng, tuple(PLACES))]
    return _place(
        world, rng, identity, size, (x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.04, 0.04)), SIZES[size]
    )


def _related(
    world: StickerWorld, rng: np.random.Generator, relation: str, identities: Sequence[_Identity]
) -> tuple[SceneObject, ...] | None:
    axis, sign = RELATIONS[relation]
    for _ in range(_TRIES):
        objects = []
        for identity, side in zip(identities, (sign, -sign), strict=True):
            center = [0.5 + rng.uniform(-0.08, 0.08)] * 2
            center[axis] = 0.5 + side * rng.uniform(0.20, 0.29)
            size = choice(rng, ("small", "medium", "medium"))
            objects.append(_place(world, rng, identity, size, (center[0], center[1]), SIZES[size]))
        first, second = objects
        if is_clear(first, [second]) and relation_holds(relation, (first.x, first.y), (second.x, second.y)):
            return first, second
    return None


def _scattered(
    world: StickerWorld, rng: np.random.Generator, identities: Sequence[_Identity], same_size: bool
) -> tuple[SceneObject, ...] | None:
    """Objects at random places: two of different sizes, or several of one size."""
    for _ in range(_TRIES):
        objects: list[SceneObject] = []
        for identity in identities:
            size = "medium" if same_size or rng.random() < 0.65 else "small"
            radius = (
                _COUNTED[len(identities)] if same_size else SIZES[size] * (1.08 if size == "medium" else 1.0)
            )
            item = _place(world, rng, identity, size, (rng.random(), rng.random()), radius)
            if not is_clear(item, objects):
                break
            objects.append(item)
        if len(objects) == len(identities):
            return tuple(objects)
    return None


def _weighted(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    names = tuple(weights)
    ends = np.cumsum([weights[name] for name in names])
    return names[int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))]
