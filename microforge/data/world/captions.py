"""Captions of scenes from a small grammar with synonyms, and evaluation prompts with the facts they state.

About four captions in ten have the plain form ("a red circle", "three blue stars"). The others add sizes, a place, the
background, synonyms or a lead ("a picture of"). A background other than white is nearly always mentioned, so a prompt
without one means white. Two objects are named in reading order unless the caption states their relation. Captions are
in lower case, except for a few capitals and full stops; the tokenizer lower-cases its input.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from microforge.data.world.scenes import (
    MIRROR,
    RELATIONS,
    Scene,
    SceneObject,
    choice,
    is_held_out,
    place_of,
    relation_holds,
    relation_is_held_out,
    sample_scene,
)

Words = Mapping[str, tuple[str, ...]]

#: Canonical word first; the others are synonyms.
SHAPE_WORDS: Words = types.MappingProxyType({
    "circle": ("circle", "disc"), "square": ("square",), "triangle": ("triangle",), "star": ("star",),
    "heart": ("heart",), "diamond": ("diamond", "rhombus"), "cross": ("cross", "plus", "plus sign"),
    "ring": ("ring", "donut"),
})  # fmt: skip
COLOR_WORDS: Words = types.MappingProxyType(
    {"gray": ("gray", "grey"), "purple": ("purple", "violet"), "cyan": ("cyan", "turquoise")}
)
SIZE_WORDS: Words = types.MappingProxyType({
    "small": ("small", "tiny", "little"), "medium": ("medium", "medium-sized"), "large": ("large", "big"),
})  # fmt: skip
RELATION_WORDS: Words = types.MappingProxyType(
    {
        "left of": ("left of", "to the left of", "on the left of"),
        "right of": ("right of", "to the right of", "on the right of"),
        "above": ("above", "over"),
        "below": ("below", "under", "beneath"),
    }
)
BACKGROUND_WORDS = (
    "on a {} background", "on a {} background", "on a {} backdrop", "against a {} background", "with a {} background",
)  # fmt: skip
LEADS = ("a picture of ", "an image of ", "a drawing of ", "a photo of ")
NUMBERS = ("zero", "one", "two", "three", "four")
#: Categories of GenEval (arXiv 2310.11513) -> the kind of scene that their prompts describe.
CATEGORIES: Mapping[str, str] = types.MappingProxyType({
    "single object": "single", "two objects": "two", "counting": "counting",
    "color": "single", "position": "position", "attribute binding": "attribute",
})  # fmt: skip

#: Joins two objects that are named in reading order.
JOINTS = (" and ", " and ", " and ", ", ")
_CANONICAL = 0.75  # share of the first word among synonyms
#: Share of captions that state the relation of two scattered objects: more training data for relations.
_RELATION_SHARE = 0.35
#: Share of captions of two different objects that give each one's place: models learn faster from detailed captions
#: (DALL-E 3, "Improving Image Generation with Better Captions").
_PLACES_SHARE = 0.35


@dataclass(frozen=True)
class PromptObject:
    """An object that a prompt asks for; ``color`` None is any colour, ``count`` None is at least one."""

    shape: str
    color: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt and the facts that the rule-based detector checks; a fact of None is not checked.

    Attributes:
        text: the prompt.
        category: a key of ``CATEGORIES``.
        background: name of the colour, or None.
        objects: objects in the order of the prompt.
        relation: relation of ``objects[0]`` to ``objects[1]``, a key of ``scenes.RELATIONS``, or None.
        place: region of the only object, a key of ``scenes.PLACES``, or None.
        held_out: whether training never shows this composition.
    """

    text: str
    category: str
    background: str | None
    objects: tuple[PromptObject, ...]
    relation: str | None
    place: str | None
    held_out: bool


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Sample one of the many true captions of ``scene``."""
    white = scene.background == "white"
    placed = scene.kind != "counting" and len(scene.objects) == 2 and rng.random() < _PLACES_SHARE
    placed = placed and not _hides_relation(scene)
    if not placed and rng.random() < (0.58 if white else 0.15):
        return _drop_article(_subject(scene, rng, plain=True), rng)
    tail = []
    if len(scene.objects) == 1:
        place = place_of(scene.objects[0].x, scene.objects[0].y)
        if rng.random() < (0.25 if place == "center" else 0.85):
            tail.append(place_phrase(place, rng))
    if rng.random() < (0.65 if white else 0.97):
        tail.append(background_phrase(scene.background, rng))
    if rng.random() < 0.25:
        tail.reverse()
    subject = _placed(scene, rng) if placed else _subject(scene, rng, plain=False)
    lead = choice(rng, LEADS) if rng.random() < 0.2 else ""
    return as_typed(lead + " ".join([subject, *tail]), rng)


def synonym(words: Words, key: str, rng: np.random.Generator) -> str:
    """The canonical word of ``key`` with probability ``_CANONICAL``, else one of its synonyms."""
    options = words.get(key, (key,))
    return options[0] if len(options) == 1 or rng.random() < _CANONICAL else choice(rng, options[1:])


def with_article(phrase: str) -> str:
    """``phrase`` with its indefinite article: ``"a circle"``, ``"an orange star"``."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def plural(noun: str) -> str:
    """The plural of ``noun``: ``"stars"``, ``"crosses"``."""
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def describe(item: SceneObject, rng: np.random.Generator, *, color: bool = True, size: bool = False) -> str:
    """Noun phrase for ``item`` without article, such as ``"big red circle"``; ``color`` and ``size`` add those words."""
    words = [synonym(SIZE_WORDS, item.size, rng)] if size else []
    words += [synonym(COLOR_WORDS, item.color, rng)] if color else []
    return " ".join([*words, synonym(SHAPE_WORDS, item.shape, rng)])


def background_phrase(color: str, rng: np.random.Generator) -> str:
    """A phrase for the background, such as ``"on a white background"``."""
    phrase = choice(rng, BACKGROUND_WORDS).format(synonym(COLOR_WORDS, color, rng))
    return phrase.replace(" a orange", " an orange")


def place_phrase(place: str, rng: np.random.Generator) -> str:
    """A phrase for a region, such as ``"on the left"``, ``"in the top left corner"`` or ``"in the middle"``."""
    if place == "center":
        return choice(rng, ("in the center", "in the middle", "in the centre", "at the center"))
    if place in ("left", "right"):
        return choice(rng, ("on the {}", "on the {}", "on the {} side", "at the {}")).format(place)
    if place in ("top", "bottom"):
        return choice(rng, ("at the {}", "at the {}", "near the {}", "on the {}")).format(place)
    if rng.random() < 0.2:
        place = place.replace("top", "upper").replace("bottom", "lower")
        return f"in the {place} corner"
    return choice(rng, ("in the {} corner", "in the {} corner", "at the {}", "in the {}")).format(place)


def as_typed(text: str, rng: np.random.Generator) -> str:
    """``text``, sometimes with a full stop, and sometimes with a capital too."""
    number = rng.random()
    return text + "." if number < 0.06 else text.capitalize() + "." if number < 0.10 else text


def _drop_article(text: str, rng: np.random.Generator) -> str:
    if " and " in text or rng.random() < 0.7:
        return text
    return text.removeprefix("a ").removeprefix("an ")


def _mentions_size(size: str, rng: np.random.Generator) -> bool:
    return bool(rng.random() < (0.1 if size == "medium" else 0.5))


def _subject(scene: Scene, rng: np.random.Generator, plain: bool) -> str:
    """The objects of ``scene`` and perhaps their relation; ``plain`` leaves out their sizes."""
    first = scene.objects[0]
    if scene.kind == "counting":
        return _counted(first, len(scene.objects), rng, plain)
    # Users also name shapes without colours. The kind "attribute" is about colours, so it always has them.
    colorless = {"single": 0.06, "two": 0.40}.get(scene.kind, 0.0)
    color = bool(rng.random() >= colorless)
    phrases = [
        with_article(describe(item, rng, color=color, size=not plain and _mentions_size(item.size, rng)))
        for item in scene.objects
    ]
    if len(phrases) == 1:
        return phrases[0]
    stated = scene.relation or _visible_relation(scene, rng)
    if stated is None:
        if _named_last_first(scene, rng):
            phrases.reverse()
        return choice(rng, JOINTS).join(phrases)
    swap = rng.random() < 0.3
    if swap:
        phrases.reverse()
    relation = MIRROR[stated] if swap else stated
    verb = "is " if not plain and rng.random() < 0.1 else ""
    return f"{phrases[0]} {verb}{synonym(RELATION_WORDS, relation, rng)} {phrases[1]}"


def _placed(scene: Scene, rng: np.random.Generator) -> str:
    """Both objects with their places: ``"a big red star on the left and a blue ring in the top right corner"``."""
    items = scene.objects[::-1] if rng.random() < 0.5 else scene.objects
    phrases = [
        f"{with_article(describe(item, rng, size=_mentions_size(item.size, rng)))} {place_phrase(place_of(item.x, item.y), rng)}"
        for item in items
    ]
    return choice(rng, (" and ", ", ")).join(phrases)


def _named_last_first(scene: Scene, rng: np.random.Generator) -> bool:
    """Whether the second of two objects is named first, because it comes first in reading order.

    Naming objects in reading order determines the layout even if the caption states none; otherwise models often draw
    one object twice. The order is random where it would reveal a held-out relation.
    """
    if _hides_relation(scene):
        return bool(rng.random() < 0.5)
    first, second = scene.objects
    return first.x + first.y > second.x + second.y


def _visible_relation(scene: Scene, rng: np.random.Generator) -> str | None:
    """With probability ``_RELATION_SHARE`` the relation of two scattered objects, unless it is held out."""
    if rng.random() >= _RELATION_SHARE or _hides_relation(scene):
        return None
    return _relation_of(scene)


def _relation_of(scene: Scene) -> str | None:
    """Relation of the first of two objects to the second, or None on a diagonal."""
    first, second = scene.objects
    relations = (name for name in RELATIONS if relation_holds(name, (first.x, first.y), (second.x, second.y)))
    return next(relations, None)


def _hides_relation(scene: Scene) -> bool:
    """Whether the relation of the two objects is held out, so that no caption may state it."""
    first, second = scene.objects
    relation = _relation_of(scene)
    return relation is not None and relation_is_held_out(relation, first.shape, second.shape)


def _counted(item: SceneObject, count: int, rng: np.random.Generator, plain: bool) -> str:
    noun = describe(item, rng, size=not plain and _mentions_size(item.size, rng))
    number = str(count) if rng.random() < 0.1 else NUMBERS[count]
    return f"{number} {plural(noun)}"


def evaluation_prompts(count: int, seed: int, held_out: bool | None = None) -> list[Prompt]:
    """Sample ``count`` prompts in canonical words, cycling over ``CATEGORIES``, with the facts to check.

    Args:
        count: number of prompts.
        seed: seed of the prompts.
        held_out: False for compositions seen in training, True for held-out ones (without the category
            "single object": a shape of any colour is never held out), None to alternate after every cycle.
    """
    rng = np.random.default_rng(seed)
    prompts: list[Prompt] = []
    hidden = bool(held_out)
    while len(prompts) < count:
        prompts += [
            canonical_prompt(category, rng, hidden)
            for category in CATEGORIES
            if not hidden or category != "single object"
        ]
        hidden = not hidden if held_out is None else hidden
    return prompts[:count]


def single_object_prompts(count: int, seed: int) -> list[Prompt]:
    """Sample ``count`` prompts for one coloured object, none held out; half name its place, half the background."""
    rng = np.random.default_rng(seed)
    prompts = []
    for _ in range(count):
        scene = sample_scene(rng, "single")
        place = place_of(scene.objects[0].x, scene.objects[0].y) if rng.random() < 0.5 else None
        prompts.append(_prompt(scene, "color", scene.background if rng.random() < 0.5 else None, place=place))
    return prompts


def canonical_prompt(category: str, rng: np.random.Generator, held_out: bool = False) -> Prompt:
    """Sample a prompt of one of ``CATEGORIES`` in canonical words; ``held_out`` for a held-out composition."""
    scene = sample_scene(rng, CATEGORIES[category], held_out)
    background = scene.background if rng.random() < 0.3 else None
    # As in GenEval, the object categories leave colours open; a held-out pair needs its colour in the prompt.
    return _prompt(
        scene, category, background, colors=held_out or not category.endswith(("object", "objects"))
    )


def _prompt(
    scene: Scene, category: str, background: str | None, colors: bool = True, place: str | None = None
) -> Prompt:
    counted = scene.kind == "counting"
    items = scene.objects[:1] if counted else scene.objects
    objects = tuple(
        PromptObject(item.shape, item.color if colors else None, len(scene.objects) if counted else None)
        for item in items
    )
    text = _canonical(objects, scene.relation)
    if place is not None:
        corner = " " in place
        text += f" {'in' if corner or place == 'center' else 'on' if place in ('left', 'right') else 'at'} the {place}"
        text += " corner" if corner else ""
    if background is not None:
        text += f" on {with_article(background)} background"
    return Prompt(text, category, background, objects, scene.relation, place, colors and is_held_out(scene))


def _canonical(objects: Sequence[PromptObject], relation: str | None) -> str:
    phrases = []
    for item in objects:
        noun = f"{item.color} {item.shape}" if item.color else item.shape
        phrases.append(f"{NUMBERS[item.count]} {plural(noun)}" if item.count else with_article(noun))
    return f" {relation or 'and'} ".join(phrases)
