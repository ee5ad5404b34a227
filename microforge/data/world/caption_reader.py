"""Parser of captions of the procedural world: the inverse of ``captions.caption``.

It reads the facts that the rule-based detector checks: objects with colour and count, their relation, the place of a
single object, and the background. Sizes, and the places of two objects, are not among the facts of a ``Prompt``.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping

import numpy as np

from microforge.data.world.captions import (
    CATEGORIES,
    COLOR_WORDS,
    NUMBERS,
    RELATION_WORDS,
    SHAPE_WORDS,
    Prompt,
    PromptObject,
    Words,
    canonical_prompt,
    caption,
    plural,
)
from microforge.data.world.scenes import COLORS, PLACES, SHAPES, sample_scene
from microforge.errors import PromptError


def _canonical(names: tuple[str, ...], words: Words) -> Mapping[str, str]:
    """Map every synonym to its canonical word."""
    return types.MappingProxyType({word: name for name in names for word in words.get(name, (name,))})


_COLOR = _canonical(tuple(COLORS), COLOR_WORDS)
_SHAPE = {
    form: name for word, name in _canonical(SHAPES, SHAPE_WORDS).items() for form in (word, plural(word))
}
_RELATION = _canonical(tuple(RELATION_WORDS), RELATION_WORDS)
_COUNT = {form: number for number, word in enumerate(NUMBERS) for form in (word, str(number))}
_PLACE_WORD = {"upper": "top", "lower": "bottom", "middle": "center", "centre": "center"}


def any_of(words: Iterable[str]) -> str:
    """Regular expression that matches any of ``words``, the longest first: "plus sign" before "plus"."""
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_BACKGROUND = re.compile(rf"\b(?:on|against|with) an? ({any_of(_COLOR)}) (?:background|backdrop)\b")
_OBJECT = re.compile(rf"(?:\b({any_of(_COLOR)}) )?\b({any_of(_SHAPE)})\b")
_BETWEEN = re.compile(rf" (?:is )?({any_of(_RELATION)}) an? ")
_COUNTED = re.compile(rf"\b({any_of(_COUNT)})\b")
_PLACE = re.compile(r"\b(?:top|bottom|upper|lower|left|right|center|centre|middle)\b")

#: Kind of scene -> the first category of prompts about it.
CATEGORY_OF: Mapping[str, str] = types.MappingProxyType(
    {kind: category for category, kind in reversed(list(CATEGORIES.items()))}
)


def seen_prompt(kind: str, rng: np.random.Generator) -> Prompt:
    """Sample a prompt, never held out, about a scene of ``kind``: half in canonical words, half a training caption."""
    if rng.random() < 0.5:
        return canonical_prompt(CATEGORY_OF[kind], rng)
    return read_caption(caption(sample_scene(rng, kind), rng))


def read_caption(text: str) -> Prompt:
    """Parse the facts that ``text`` states.

    Raises:
        PromptError: when ``text`` names no shape of the procedural world.
    """
    plain = text.lower().strip().removesuffix(".")
    background = _BACKGROUND.search(plain)
    plain = _BACKGROUND.sub("", plain)
    matches = list(_OBJECT.finditer(plain))
    if not matches:
        raise PromptError(f"{text!r} names no shape; the shapes are {', '.join(SHAPES)}")
    first, last = matches[0], matches[-1]
    number = _COUNTED.search(plain[: first.start()]) if len(matches) == 1 else None
    count = None if number is None else _COUNT[number[1]]
    objects = tuple(
        PromptObject(_SHAPE[shape], None if color is None else _COLOR[color], count)
        for color, shape in (match.groups() for match in matches)
    )
    relation = None
    if len(matches) == 2 and (between := _BETWEEN.match(plain[first.end() : last.end()])):
        relation = _RELATION[between[1]]
    return Prompt(
        text=text,
        category=_category(count, relation, len(matches)),
        background=None if background is None else _COLOR[background[1]],
        objects=objects,
        relation=relation,
        place=_place(plain[first.end() :]) if len(matches) == 1 and count is None else None,
        held_out=False,
    )


def _category(count: int | None, relation: str | None, objects: int) -> str:
    if count:
        return "counting"
    if relation:
        return "position"
    return "two objects" if objects > 1 else "color"


def _place(tail: str) -> str | None:
    """Place of a single object, from the text after it."""
    words = [_PLACE_WORD.get(word, word) for word in _PLACE.findall(tail)]
    place = " ".join(sorted(set(words), key=("top", "bottom", "left", "right", "center").index))
    return place if place in PLACES else None
