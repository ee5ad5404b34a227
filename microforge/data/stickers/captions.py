"""True captions of sticker scenes in six languages, from one set of rules and the tables of ``grammars``.

About half of the captions are plain ("a cow", "two red apples"); the others add size, place, background, style or a lead
("a sticker of"). A background that is not white is nearly always mentioned. Two things are named in reading order unless it
is said how they lie, as in the captions of the procedural world.
"""

from __future__ import annotations

import types
from collections.abc import Mapping

import numpy as np

from microforge.data.stickers.grammars import GRAMMARS, Grammar
from microforge.data.stickers.nouns import caption_nouns, plural, with_article
from microforge.data.stickers.scenes import StickerObject
from microforge.data.stickers.world import StickerWorld
from microforge.data.world.captions import (
    BACKGROUND_WORDS,
    COLOR_WORDS,
    RELATION_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    as_typed,
    place_phrase,
    synonym,
)
from microforge.data.world.scenes import (
    MIRROR,
    RELATIONS,
    Scene,
    SceneObject,
    choice,
    place_of,
    relation_holds,
    relation_is_held_out,
)

#: How often training's captions are in each language.
LANGUAGE_SHARES: Mapping[str, float] = types.MappingProxyType(
    {"en": 0.50, "es": 0.10, "fr": 0.10, "de": 0.10, "pt": 0.10, "zh": 0.10}
)
_USUAL_NAME = 0.8  # share of the first noun among a subject's
_COLOR_SAID, _NATURAL_SAID = 0.97, 0.2
_STYLE_SAID, _BACKGROUND_SAID, _RELATION_SAID, _LEAD = 0.3, 0.95, 0.25, 0.36


def sticker_caption(
    world: StickerWorld, scene: Scene, rng: np.random.Generator, language: str | None = None
) -> str:
    """One of many true captions of ``scene``, in ``language`` or in one sampled by ``LANGUAGE_SHARES``."""
    language = language or draw_language(rng)
    grammar = GRAMMARS[language]
    plain = bool(rng.random() < 0.5)
    text = _subject(world, scene, rng, grammar, plain)
    if plain and rng.random() < 0.08 and len(scene.objects) == 1:
        text = _tagged(world, scene, rng, grammar, text)
    if scene.kind == "single" and (not plain or rng.random() < 0.3):
        text = grammar.placed.format(subject=text, place=_place(scene.objects[0], rng, grammar))
    white = 0.03 if plain else 0.12
    if rng.random() < (white if scene.background == "white" else _BACKGROUND_SAID):
        text = _background(text, scene.background, rng, grammar)
    styles = {item.style for item in scene.objects if isinstance(item, StickerObject)}
    if len(styles) == 1 and len(world.styles) > 1 and rng.random() < _STYLE_SAID:
        text = grammar.styled.format(subject=text, style=grammar.style(styles.pop()))
    if not plain and rng.random() < _LEAD:
        text = choice(rng, grammar.leads).format(text)
    return as_typed(text, rng) if language == "en" else text


def draw_language(rng: np.random.Generator) -> str:
    """A language, as often as ``LANGUAGE_SHARES`` says."""
    ends = np.cumsum(list(LANGUAGE_SHARES.values()))
    return tuple(LANGUAGE_SHARES)[int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))]


def canonical_caption(world: StickerWorld, scene: Scene, language: str = "en", style: bool = False) -> str:
    """The plainest caption of ``scene``: usual nouns, colours where they are not natural, the relation where the kind has one.

    Args:
        style: say the style of its stickers.
    """
    grammar, still = GRAMMARS[language], np.random.default_rng(0)
    first = scene.objects[0]
    phrases = [
        _phrase(world, item, still, grammar, usual=True, colored=_must_say(item)) for item in scene.objects
    ]
    if scene.kind == "counting":
        text = _counted(world, first, len(scene.objects), still, grammar, True, _must_say(first))
    elif len(phrases) == 1:
        text = phrases[0]
    elif scene.relation is not None:
        relation = grammar.relations[scene.relation]
        text = grammar.related.format(first=phrases[0], relation=relation, second=phrases[1])
    else:
        text = grammar.joined.format(first=phrases[0], second=phrases[1])
    if style and isinstance(first, StickerObject) and len(world.styles) > 1:
        text = grammar.styled.format(subject=text, style=grammar.style(first.style))
    return text


def noun_phrase(
    world: StickerWorld, item: SceneObject, rng: np.random.Generator, grammar: Grammar, colored: bool
) -> str:
    """A thing without article: ``"blue cow"``, ``"vaca de color azul"``."""
    noun = _noun(world, item, rng, grammar, usual=False)
    return _with_color(noun, item.color, rng, grammar) if colored and item.color else noun


def _must_say(item: SceneObject) -> bool:
    return bool(item.color) and (not isinstance(item, StickerObject) or item.recolored)


def _says_color(item: SceneObject, rng: np.random.Generator, attribute: bool) -> bool:
    if not item.color:
        return False
    if attribute:
        return True
    return bool(rng.random() < (_COLOR_SAID if _must_say(item) else _NATURAL_SAID))


def _subject(
    world: StickerWorld, scene: Scene, rng: np.random.Generator, grammar: Grammar, plain: bool
) -> str:
    """The objects and how they lie to each other."""
    first, attribute = scene.objects[0], scene.kind == "attribute"
    if scene.kind == "counting":
        return _counted(world, first, len(scene.objects), rng, grammar, plain, _says_color(first, rng, False))
    sized = not plain and scene.kind != "portrait"
    phrases = [
        _phrase(
            world,
            item,
            rng,
            grammar,
            plain,
            _says_color(item, rng, attribute),
            sized and bool(rng.random() < 0.4),
        )
        for item in scene.objects
    ]
    if len(phrases) == 1:
        return phrases[0]
    said = scene.relation or _visible_relation(scene, rng)
    if said is None:
        one, other = scene.objects
        if one.x + one.y > other.x + other.y:
            phrases.reverse()
        return grammar.joined.format(first=phrases[0], second=phrases[1])
    if rng.random() < 0.3:
        phrases.reverse()
        said = MIRROR[said]
    relation = synonym(RELATION_WORDS, said, rng) if grammar.language == "en" else grammar.relations[said]
    return grammar.related.format(first=phrases[0], relation=relation, second=phrases[1])


def _visible_relation(scene: Scene, rng: np.random.Generator) -> str | None:
    """Now and then how two scattered things happen to lie."""
    first, second = scene.objects
    if rng.random() >= _RELATION_SAID:
        return None
    places = (first.x, first.y), (second.x, second.y)
    found = next((name for name in RELATIONS if relation_holds(name, *places)), None)
    shapes = not isinstance(first, StickerObject) and not isinstance(second, StickerObject)
    return (
        None
        if found is None or (shapes and relation_is_held_out(found, first.shape, second.shape))
        else found
    )


def _phrase(
    world: StickerWorld, item: SceneObject, rng: np.random.Generator, grammar: Grammar, usual: bool, colored: bool,
    sized: bool = False,
) -> str:  # fmt: skip
    """One thing, in English with its article."""
    text = _noun(world, item, rng, grammar, usual)
    if colored:
        text = _with_color(text, item.color, rng, grammar)
    if sized and item.size:
        size = synonym(SIZE_WORDS, item.size, rng) if grammar.language == "en" else grammar.sizes[item.size]
        text = grammar.sized.format(noun=text, size=size)
    return with_article(text) if grammar.language == "en" else text


def _noun(
    world: StickerWorld, item: SceneObject, rng: np.random.Generator, grammar: Grammar, usual: bool
) -> str:
    if not isinstance(item, StickerObject):
        return (
            synonym(SHAPE_WORDS, item.shape, rng) if grammar.language == "en" else grammar.shapes[item.shape]
        )
    nouns = caption_nouns(world.stickers[item.row], grammar.language)
    return nouns[0] if usual or len(nouns) == 1 or rng.random() < _USUAL_NAME else choice(rng, nouns[1:])


def _with_color(noun: str, color: str, rng: np.random.Generator, grammar: Grammar) -> str:
    word = synonym(COLOR_WORDS, color, rng) if grammar.language == "en" else grammar.colors[color]
    return grammar.colored.format(noun=noun, color=word)


def _counted(
    world: StickerWorld, item: SceneObject, count: int, rng: np.random.Generator, grammar: Grammar, usual: bool, colored: bool
) -> str:  # fmt: skip
    noun = _noun(world, item, rng, grammar, usual)
    noun = plural(noun) if grammar.language == "en" else noun
    if colored:
        noun = _with_color(noun, item.color, rng, grammar)
    number = str(count) if rng.random() < 0.1 and grammar.language != "zh" else grammar.numbers[count - 2]
    return grammar.counted.format(number=number, noun=noun)


def _place(item: SceneObject, rng: np.random.Generator, grammar: Grammar) -> str:
    place = place_of(item.x, item.y)
    return place_phrase(place, rng) if grammar.language == "en" else grammar.places[place]


def _background(text: str, color: str, rng: np.random.Generator, grammar: Grammar) -> str:
    if grammar.language != "en":
        return grammar.background.format(subject=text, color=grammar.backgrounds[color])
    phrase = (
        choice(rng, BACKGROUND_WORDS)
        .format(synonym(COLOR_WORDS, color, rng))
        .replace(" a orange", " an orange")
    )
    return f"{text} {phrase}"


def _tagged(world: StickerWorld, scene: Scene, rng: np.random.Generator, grammar: Grammar, text: str) -> str:
    """The way people search: the thing and a tag or two of it."""
    item = scene.objects[0]
    tags = world.stickers[item.row].tags.get(grammar.language, ()) if isinstance(item, StickerObject) else ()
    if not tags:
        return text
    chosen = [choice(rng, tags) for _ in range(int(rng.integers(1, 3)))]
    return ", ".join(dict.fromkeys((text, *chosen)))
