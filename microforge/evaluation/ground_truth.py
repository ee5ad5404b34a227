"""True renders of evaluation prompts, which give the ceiling of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from microforge.data.pixels import to_uint8
from microforge.data.world.captions import Prompt
from microforge.data.world.renderer import render
from microforge.data.world.scenes import (
    COLORS,
    MIN_CONTRAST,
    PLACES,
    RELATIONS,
    Scene,
    SceneObject,
    add_object,
    choice,
    color_distance,
    is_clear,
    make_object,
    relation_holds,
    sample_background,
)

Identity = tuple[str, str]  # color, shape


def scene_for_prompt(prompt: Prompt, rng: np.random.Generator) -> Scene:
    """Sample a scene that shows ``prompt`` and nothing else; ``rng`` decides what the prompt leaves open."""
    identities = [
        (item.color or _free_color(prompt.background, rng), item.shape)
        for item in prompt.objects
        for _ in range(item.count or 1)
    ]
    if prompt.relation is not None:
        objects = _related(prompt.relation, identities, rng)
    elif len(identities) == 1:
        objects = (_placed(prompt.place, identities[0], rng),)
    else:
        objects = _scattered(identities, rng)
    background = prompt.background or sample_background(rng, [item.color for item in objects])
    return Scene(background, COLORS[background], objects, prompt.category, prompt.relation)


def render_prompts(prompts: Sequence[Prompt], seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Render scenes that show ``prompts``: uint8 (B, height, width, 3); scene i is sampled with seed + i."""
    scenes = [scene_for_prompt(prompt, np.random.default_rng(seed + i)) for i, prompt in enumerate(prompts)]
    pixels = to_uint8(render(scenes, height, width))
    images: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return images


def _free_color(background: str | None, rng: np.random.Generator) -> str:
    return choice(rng, [c for c in COLORS if not background or color_distance(c, background) >= MIN_CONTRAST])


def _placed(place: str | None, identity: Identity, rng: np.random.Generator) -> SceneObject:
    x, y = PLACES[place or choice(rng, tuple(PLACES))]
    jitter = rng.uniform(-0.04, 0.04, 2)
    size = choice(rng, ("small", "medium", "large"))
    return make_object(rng, *identity, size, x + jitter[0], y + jitter[1])


def _related(
    relation: str, identities: Sequence[Identity], rng: np.random.Generator
) -> tuple[SceneObject, ...]:
    axis, sign = RELATIONS[relation]
    while True:
        objects = []
        for identity, side in zip(identities, (sign, -sign), strict=True):
            center = list(rng.uniform(0.4, 0.6, 2))
            center[axis] = 0.5 + side * rng.uniform(0.17, 0.30)
            objects.append(make_object(rng, *identity, choice(rng, ("small", "medium")), *center))
        first, second = objects
        if is_clear(first, [second]) and relation_holds(relation, (first.x, first.y), (second.x, second.y)):
            return first, second


def _scattered(identities: Sequence[Identity], rng: np.random.Generator) -> tuple[SceneObject, ...]:
    while True:
        size = choice(rng, ("small", "medium"))
        objects: list[SceneObject] = []
        for identity in identities:
            item = add_object(rng, objects, *identity, size)
            if item is None:
                break
            objects.append(item)
        if len(objects) == len(identities):
            return tuple(objects)
