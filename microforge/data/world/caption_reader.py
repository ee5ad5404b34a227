"""Reads a caption of the procedural world back into the facts that an oracle checks.

The inverse of ``captions.caption`` as far as its words go: objects with colour and count, a relation, the place of an
only object, the background. Sizes, and where each of two objects lies, are not among the facts of a ``Prompt``.
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
    """Every synonym -> its canonical word."""
    return types.MappingProxyType({word: name for name in names for word in words.get(name, (name,))})


_COLOR = _canonical(tuple(COLORS), COLOR_WORDS)
_SHAPE = {
    form: name for word, name in _canonical(SHAPES, SHAPE_WORDS).items() for form in (word, plural(word))
}
_RELATION = _canonical(tuple(RELATION_WORDS), RELATION_WORDS)
_COUNT = {form: number for number, word in enumerate(NUMBERS) for form in (word, str(number))}
_PLACE_WORD = {"upper": "top", "lower": "bottom", "middle": "center", "centre": "center"}


def any_of(words: Iterable[str]) -> str:
    """A pattern for any of ``words``, the longest first: "plus sign" before "plus"."""
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_BACKGROUND = re.compile(rf"\b(?:on|against|with) an? ({any_of(_COLOR)}) (?:background|backdrop)\b")
_OBJECT = re.compile(rf"(?:\b({any_of(_COLOR)}) )?\b({any_of(_SHAPE)})\b")
_BETWEEN = re.compile(rf" (?:is )?({any_of(_RELATION)}) an? ")
_COUNTED = re.compile(rf"\b({any_of(_COUNT)})\b")
_PLACE = re.compile(r"\b(?:top|bottom|upper|lower|left|right|center|centre|middle)\b")

#: Kind of scene -> the first category about it.
CATEGORY_OF: Mapping[str, str] = types.MappingProxyType(
    {kind: category for category, kind in reversed(list(CATEGORIES.items()))}
)


def seen_prompt(kind: str, rng: np.random.Generator) -> Prompt:
    """A prompt about a scene of ``kind`` that training shows: half as prompts are typed, half as its captions are."""
    if rng.random() < 0.5:
        return canonical_prompt(CATEGORY_OF[kind], rng)
    return read_caption(caption(sample_scene(rng, kind), rng))


def read_caption(text: str) -> Prompt:
    """The facts that ``text`` states.

    Raises:
        PromptError: when it names no shape of the procedural world.
    """
    plain = text.lower().strip().removesuffix(".")
    said = _BACKGROUND.search(plain)
    background = None if said is None else _COLOR[said[1]]
    plain = _BACKGROUND.sub("", plain)
    found = list(_OBJECT.finditer(plain))
    if not found:
        raise PromptError(f"{text!r} names no shape; the shapes are {', '.join(SHAPES)}")
    first, last = found[0], found[-1]
    number = _COUNTED.search(plain[: first.start()]) if len(found) == 1 else None
    count = None if number is None else _COUNT[number[1]]
    objects = tuple(
        PromptObject(_SHAPE[one[2]], None if one[1] is None else _COLOR[one[1]], count) for one in found
    )
    relation = None
    if len(found) == 2 and (between := _BETWEEN.match(plain[first.end() : last.end()])):
        relation = _RELATION[between[1]]
    place = _place(plain[first.end() :]) if len(found) == 1 and count is None else None
    category = (
        "counting" if count else "position" if relation else "two objects" if len(found) > 1 else "color"
    )
    return Prompt(text, category, background, objects, relation, place, held_out=False)


def _place(tail: str) -> str | None:
    """The place of an only object, from what follows it."""
    words = [_PLACE_WORD.get(word, word) for word in _PLACE.findall(tail)]
    place = " ".join(sorted(set(words), key=("top", "bottom", "left", "right", "center").index))
    return place if place in PLACES else None
