"""Edits of procedural scenes: a source scene, an instruction, and the target scene that the instruction asks for.

Objects that the instruction does not name keep their exact position, radius and colour, so the renders of both scenes
differ by the edit alone. Neither scene shows a held-out composition.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from microforge.data.world.captions import (
    COLOR_WORDS,
    SHAPE_WORDS,
    as_typed,
    describe,
    place_phrase,
    plural,
    synonym,
    with_article,
)
from microforge.data.world.renderer import object_mask
from microforge.data.world.scenes import (
    COLORS,
    EXTENT,
    FRAME_MARGIN,
    HELD_OUT,
    MIN_CONTRAST,
    PLACES,
    SHAPES,
    Scene,
    SceneObject,
    add_object,
    choice,
    color_distance,
    is_clear,
    jittered,
    make_object,
    place_of,
    sample_background,
    sample_scene,
)
from microforge.errors import DataError


@dataclass(frozen=True)
class Edit:
    """An ``instruction`` that turns ``source`` into ``target``; ``operation`` is a key of ``OPERATIONS``."""

    source: Scene
    instruction: str
    target: Scene
    operation: str


#: Instruction and target scene of one operation, or None where the operation does not apply to the source scene.
Outcome = tuple[str, Scene] | None


def sample_edit(rng: np.random.Generator, operation: str | None = None) -> Edit:
    """Sample one edit.

    Args:
        rng: the only source of randomness.
        operation: a key of ``OPERATIONS``; None for any of them, each equally likely.

    Raises:
        DataError: for an unknown operation.
    """
    operation = choice(rng, tuple(OPERATIONS)) if operation is None else operation
    if operation not in OPERATIONS:
        raise DataError(f"unknown edit operation {operation!r}; allowed: {', '.join(OPERATIONS)}")
    kinds, apply = OPERATIONS[operation]
    while True:
        source = sample_scene(rng, choice(rng, kinds))
        outcome = apply(rng, source)
        if outcome is not None:
            instruction, target = outcome
            return Edit(source, as_typed(instruction, rng), target, operation)


def edited_region(edit: Edit, height: int, width: int) -> Tensor:
    """Mask of the pixels that an edit changes: float32 (1, H, W), 1 on every changed object of both scenes.

    A new background changes all pixels except those that an object covers completely.
    """
    before, after = edit.source, edit.target
    changed = set(before.objects) ^ set(after.objects)
    region = torch.zeros(height, width)
    for item in changed:
        region = torch.maximum(region, (object_mask(item, height, width) > 0).float())
    if before.background_rgb != after.background_rgb:
        covered = torch.zeros(height, width)
        for item in after.objects:
            covered = torch.maximum(covered, object_mask(item, height, width))
        region = torch.maximum(region, (covered < 1).float())
    return region[None]


def edited_box(edit: Edit, height: int, width: int) -> Tensor:
    """Mask of the bounding boxes of an edit: float32 (1, H, W), 1 in the box of every changed object of both scenes.

    The box of a new background is the whole image.
    """
    before, after = edit.source, edit.target
    if before.background_rgb != after.background_rgb:
        return torch.ones(1, height, width)
    box = torch.zeros(1, height, width)
    for item in set(before.objects) ^ set(after.objects):
        rows, columns = torch.nonzero(object_mask(item, height, width), as_tuple=True)
        box[:, int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1] = 1.0
    return box


def _recolor(rng: np.random.Generator, scene: Scene) -> Outcome:
    old = _pick(rng, scene)
    color = _new_color(rng, scene.background, old.shape)
    if color == old.color:
        return None
    rgb = jittered(rng, COLORS[color])
    target = _replaced(scene, old, lambda item: replace(item, color=color, rgb=rgb))
    word = synonym(COLOR_WORDS, color, rng)
    forms = (
        "make {} {}", "make {} {}", "change {} to {}", "paint {} {}", "color {} {}", "recolor {} {}", "turn {} {}",
        "change the color of {} to {}",
    )  # fmt: skip
    return choice(rng, forms).format(_reference(rng, scene, old), word), target


def _reshape(rng: np.random.Generator, scene: Scene) -> Outcome:
    old = _pick(rng, scene)
    shape = choice(rng, SHAPES)
    if (old.color, shape) in HELD_OUT or shape in [item.shape for item in scene.objects]:
        return None
    target = _replaced(scene, old, lambda item: replace(item, shape=shape))
    noun = synonym(SHAPE_WORDS, shape, rng)
    noun = plural(noun) if scene.kind == "counting" else with_article(noun)
    forms = (
        "turn {} into {}",
        "change {} into {}",
        "change {} to {}",
        "replace {} with {}",
        "make {} into {}",
    )
    return choice(rng, forms).format(_reference(rng, scene, old), noun), target


def _move(rng: np.random.Generator, scene: Scene) -> Outcome:
    old = _pick(rng, scene)
    place = choice(rng, tuple(PLACES))
    edge = EXTENT * old.radius + FRAME_MARGIN
    x, y = (min(max(c + rng.uniform(-0.04, 0.04), edge), 1 - edge) for c in PLACES[place])
    new = replace(old, x=x, y=y)
    if place == place_of(old.x, old.y) or not is_clear(new, [item for item in scene.objects if item != old]):
        return None
    target = _replaced(scene, old, lambda _: new)
    verb = choice(rng, ("move {} to the", "move {} to the", "shift {} to the", "put", "place"))
    if verb in ("put", "place"):
        return f"{verb} {_reference(rng, scene, old)} {place_phrase(place, rng)}", target
    where = choice(rng, ("center", "middle")) if place == "center" else place
    where += " corner" if " " in place and rng.random() < 0.6 else ""
    return f"{verb.format(_reference(rng, scene, old))} {where}", target


def _add(rng: np.random.Generator, scene: Scene) -> Outcome:
    shape = choice(rng, SHAPES)
    color = _new_color(rng, scene.background, shape)
    size = choice(rng, ("small", "medium"))
    if shape == scene.objects[0].shape:
        return None
    place = choice(rng, tuple(PLACES)) if rng.random() < 0.6 else None
    if place is None:
        new = add_object(rng, scene.objects, color, shape, size)
    else:
        new = make_object(rng, color, shape, size, *PLACES[place])
        new = new if is_clear(new, scene.objects) else None
    if new is None:
        return None
    thing = with_article(describe(new, rng, size=rng.random() < (0.7 if size == "small" else 0.2)))
    text = f"{choice(rng, ('add', 'add', 'put', 'draw') if place else ('add', 'add', 'draw'))} {thing}"
    text += f" {place_phrase(place, rng)}" if place else ""
    return text, replace(scene, kind="two", objects=(*scene.objects, new))


def _remove(rng: np.random.Generator, scene: Scene) -> Outcome:
    old = _pick(rng, scene)
    remaining = tuple(item for item in scene.objects if item != old)
    text = choice(rng, ("remove {}", "remove {}", "delete {}", "erase {}", "take away {}", "get rid of {}"))
    return text.format(_reference(rng, scene, old)), replace(scene, kind="single", objects=remaining)


def _background(rng: np.random.Generator, scene: Scene) -> Outcome:
    color = sample_background(rng, [item.color for item in scene.objects])
    if color == scene.background:
        return None
    word = synonym(COLOR_WORDS, color, rng)
    forms = (
        "make the background {}", "change the background to {}", "change the background color to {}",
        "paint the background {}", "turn the background {}", "use {} background", "make the backdrop {}",
    )  # fmt: skip
    form = choice(rng, forms)
    text = form.format(with_article(word) if form.startswith("use") else word)
    return text, replace(scene, background=color, background_rgb=COLORS[color])


#: Operation -> the kinds of scenes that it applies to, and the function that applies it.
OPERATIONS: Mapping[str, tuple[tuple[str, ...], Callable[[np.random.Generator, Scene], Outcome]]] = (
    types.MappingProxyType({
        "recolor": (("single", "two", "counting"), _recolor),
        "reshape": (("single", "two", "counting"), _reshape),
        "move": (("single", "two"), _move),
        "add": (("single",), _add),
        "remove": (("two",), _remove),
        "background": (("single", "two", "counting"), _background),
    })
)  # fmt: skip


def _pick(rng: np.random.Generator, scene: Scene) -> SceneObject:
    return scene.objects[int(rng.integers(len(scene.objects)))]


def _replaced(scene: Scene, old: SceneObject, change: Callable[[SceneObject], SceneObject]) -> Scene:
    """``scene`` with ``old`` changed; in a counting scene the whole group changes."""
    whole_group = scene.kind == "counting"
    return replace(
        scene, objects=tuple(change(item) if whole_group or item == old else item for item in scene.objects)
    )


def _new_color(rng: np.random.Generator, background: str, shape: str) -> str:
    """A colour with enough contrast to the background, and whose combination with ``shape`` is not held out."""
    while True:
        color = choice(rng, tuple(COLORS))
        if (color, shape) not in HELD_OUT and color_distance(color, background) >= MIN_CONTRAST:
            return color


def _reference(rng: np.random.Generator, scene: Scene, item: SceneObject) -> str:
    """Noun phrase for ``item``: its shape identifies it, as shapes differ within a scene; now and then ``it``."""
    if scene.kind == "single" and rng.random() < 0.1:
        return "it"
    noun = describe(item, rng, color=rng.random() < 0.5)
    return f"the {plural(noun) if scene.kind == 'counting' else noun}"
