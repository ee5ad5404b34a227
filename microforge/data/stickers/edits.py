"""Edits of sticker scenes with the true result: a scene, an instruction in one of six languages, and the scene it asks for.

Whatever the instruction does not name stays as it was. Neither scene holds a held-out composition.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from microforge.data.stickers.captions import draw_language, noun_phrase
from microforge.data.stickers.edit_instructions import INSTRUCTIONS
from microforge.data.stickers.grammars import GRAMMARS, Grammar
from microforge.data.stickers.nouns import plural, with_article
from microforge.data.stickers.scenes import (
    SIZES,
    StickerObject,
    free_background,
    held_out_splits,
    make_sticker,
    sample_sticker_scene,
)
from microforge.data.stickers.world import StickerWorld
from microforge.data.world.captions import as_typed, place_phrase
from microforge.data.world.edits import Edit
from microforge.data.world.scenes import COLORS, PLACES, Scene, choice, is_clear, place_of
from microforge.errors import DataError

#: What an operation makes of a scene: the words that its instruction needs, and the result; None where it cannot apply.
Outcome = tuple[Mapping[str, str], Scene] | None
_LONE = ("portrait", "single")


def sample_sticker_edit(
    world: StickerWorld, rng: np.random.Generator, operation: str | None = None, language: str | None = None
) -> Edit:
    """Sample one edit, of the given operation or of any with equal chance, in a language sampled as for captions.

    Raises:
        DataError: for an unknown operation, or one that this set cannot show.
    """
    if operation is not None and operation not in OPERATIONS:
        raise DataError(f"unknown edit operation {operation!r}; allowed: {', '.join(OPERATIONS)}")
    grammar = GRAMMARS[language or draw_language(rng)]
    for _ in range(2000):
        name = operation or choice(rng, tuple(OPERATIONS))
        kinds, apply = OPERATIONS[name]
        source = sample_sticker_scene(world, rng, choice(rng, kinds))
        outcome = apply(world, rng, source, grammar)
        if outcome is None or held_out_splits(world, outcome[1]):
            continue
        words, target = outcome
        form = choice(rng, INSTRUCTIONS[grammar.language][name])
        text = " ".join(form.format(**words).split()) if grammar.separator else form.format(**words)
        return Edit(source, as_typed(text, rng) if grammar.language == "en" else text, target, name)
    raise DataError(f"no edit {operation or ''} was found in 2000 tries; the sticker set is too small for it")


def _recolor(world: StickerWorld, rng: np.random.Generator, scene: Scene, grammar: Grammar) -> Outcome:
    old = _pick(rng, scene)
    if old is None:
        return None
    options = [color for color in world.colors(old.row) if color not in (old.color, scene.background)]
    options = [color for color in options if not world.hides_color(old.shape, color)]
    if not options:
        return None
    color = choice(rng, options)
    change = {"color": color, "rgb": COLORS[color], "recolored": True}
    objects = tuple(
        replace(item, **change) if isinstance(item, StickerObject) and item.shape == old.shape else item  # type: ignore[arg-type]
        for item in scene.objects
    )
    words = {"thing": _thing(world, old, rng, scene, grammar), "color": grammar.colors[color]}
    return words, replace(scene, objects=objects)


def _replace(world: StickerWorld, rng: np.random.Generator, scene: Scene, grammar: Grammar) -> Outcome:
    old = _pick(rng, scene)
    if old is None:
        return None
    subject = world.draw_subject(rng, company=True)
    styles = world.seen_styles[subject]
    if subject == old.shape or not styles:
        return None
    row = world.rows[subject][old.style if old.style in styles else choice(rng, styles)]
    sticker = make_sticker(world, rng, row, None, old.size, (old.x, old.y), old.radius)
    new = replace(sticker, x=old.x, y=old.y, radius=old.radius)
    objects = tuple(
        replace(new, x=item.x, y=item.y, radius=item.radius) if item.shape == old.shape else item
        for item in scene.objects
    )
    thing = _thing(world, old, rng, scene, grammar)
    return {"thing": thing, "new": _new(world, new, rng, scene, grammar)}, replace(scene, objects=objects)


def _restyle(world: StickerWorld, rng: np.random.Generator, scene: Scene, grammar: Grammar) -> Outcome:
    old = _pick(rng, scene)
    if old is None or old.recolored:
        return None
    options = [style for style in world.seen_styles[old.shape] if style != old.style]
    if not options:
        return None
    style = choice(rng, options)
    row = world.rows[old.shape][style]
    objects = tuple(
        replace(item, row=row, style=style, color=world.natural_color(row) or "", rgb=world.store.profiles[row].mean)
        if isinstance(item, StickerObject) else item
        for item in scene.objects
    )  # fmt: skip
    return {"style": grammar.style(style)}, replace(scene, objects=objects)


def _move(world: StickerWorld, rng: np.random.Generator, scene: Scene, grammar: Grammar) -> Outcome:
    old = _pick(rng, scene)
    if old is None or old.radius > SIZES["large"]:
        return None
    place = choice(rng, tuple(PLACES))
    edge = min(old.radius + 0.015, 0.5)
    x, y = (min(max(value + rng.uniform(-0.03, 0.03), edge), 1 - edge) for value in PLACES[place])
    new = replace(old, x=x, y=y)
    others = [item for item in scene.objects if item != old]
    if place == place_of(old.x, old.y) or place_of(x, y) != place or not is_clear(new, others):
        return None
    objects = tuple(new if item == old else item for item in scene.objects)
    where = f"{place} corner" if " " in place else place
    words = {
        "thing": _thing(world, old, rng, scene, grammar),
        "place": _place(place, rng, grammar),
        "where": where,
    }
    return words, replace(scene, objects=objects, relation=None)


def _add(world: StickerWorld, rng: np.random.Generator, scene: Scene, grammar: Grammar) -> Outcome:
    first = scene.objects[0]
    subject = world.draw_subject(rng, company=True)
    if subject == first.shape:
        return None
    styles = world.seen_styles[subject]
    style = first.style if isinstance(first, StickerObject) and first.style in styles else choice(rng, styles)
    place = choice(rng, tuple(PLACES))
    size = choice(rng, ("small", "medium"))
    new = make_sticker(world, rng, world.rows[subject][style], None, size, PLACES[place], SIZES[size])
    if place_of(new.x, new.y) != place or not is_clear(new, scene.objects):
        return None
    words = {"new": _new(world, new, rng, scene, grammar), "place": _place(place, rng, grammar)}
    return words, replace(scene, kind="two", objects=(*scene.objects, new))


def _remove(world: StickerWorld, rng: np.random.Generator, scene: Scene, grammar: Grammar) -> Outcome:
    old = _pick(rng, scene)
    if old is None:
        return None
    remaining = tuple(item for item in scene.objects if item != old)
    return {"thing": _thing(world, old, rng, scene, grammar)}, replace(
        scene, kind="single", objects=remaining, relation=None
    )


def _background(world: StickerWorld, rng: np.random.Generator, scene: Scene, grammar: Grammar) -> Outcome:
    color = free_background(rng, [item.rgb for item in scene.objects])
    if color == scene.background:
        return None
    table = grammar.colors if grammar.language == "de" else grammar.backgrounds
    return {"color": table[color]}, replace(scene, background=color, background_rgb=COLORS[color])


#: Operation -> the kinds of scene it applies to, and how.
OPERATIONS: Mapping[
    str, tuple[tuple[str, ...], Callable[[StickerWorld, np.random.Generator, Scene, Grammar], Outcome]]
] = types.MappingProxyType({
    "recolor": (("portrait", "two", "counting"), _recolor),
    "replace": (("portrait", "two", "counting"), _replace),
    "restyle": (("portrait", "counting"), _restyle),
    "move": (("single", "two"), _move),
    "add": (("single",), _add),
    "remove": (("two",), _remove),
    "background": (("portrait", "two", "counting"), _background),
})  # fmt: skip


def _pick(rng: np.random.Generator, scene: Scene) -> StickerObject | None:
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    return item if isinstance(item, StickerObject) else None


def _thing(
    world: StickerWorld, item: StickerObject, rng: np.random.Generator, scene: Scene, grammar: Grammar
) -> str:
    """Words for something that is there; ``it`` now and then where it is alone."""
    noun = noun_phrase(world, item, rng, grammar, colored=item.recolored and bool(rng.random() < 0.5))
    if grammar.language != "en":
        return noun
    if scene.kind in _LONE and rng.random() < 0.15:
        return "it"
    return f"the {plural(noun) if scene.kind == 'counting' else noun}"


def _new(
    world: StickerWorld, item: StickerObject, rng: np.random.Generator, scene: Scene, grammar: Grammar
) -> str:
    noun = noun_phrase(world, item, rng, grammar, colored=False)
    if grammar.language != "en":
        return noun
    return plural(noun) if scene.kind == "counting" else with_article(noun)


def _place(place: str, rng: np.random.Generator, grammar: Grammar) -> str:
    return place_phrase(place, rng) if grammar.language == "en" else grammar.places[place]
