"""What a sticker is called in a caption: nouns in several languages from the names of a catalogue. No torch.

Names are labels ("flag: France", "A button (blood type)"); captions need nouns with articles and plurals.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping

from microforge.data.stickers.catalogue import Sticker

#: "flag of France" in every language; the label has a colon.
_FLAGS: Mapping[str, str] = types.MappingProxyType({
    "en": "flag of {}", "es": "bandera de {}", "fr": "drapeau de {}", "de": "Flagge von {}", "pt": "bandeira de {}",
    "zh": "{}国旗",
})  # fmt: skip
_FLAG_WORDS = ("flag", "bandera", "drapeau", "flagge", "bandeira", "旗")
_COLON = re.compile("\\s*[:：]\\s*")
#: Everyday English words for emoji whose label is another word, by id. Among them are the classes of GenEval.
EVERYDAY: Mapping[str, tuple[str, ...]] = types.MappingProxyType({
    "1f697": ("car",), "1f6b2": ("bike",), "1f3cd": ("motorbike",), "1f682": ("train",), "1f69a": ("truck",),
    "26f5": ("boat",), "1f6a4": ("motorboat",), "1f6a5": ("traffic light",), "1f6d1": ("stop sign",),
    "1f415": ("puppy",), "1f408": ("kitty",), "1f411": ("sheep",), "1f40f": ("ram",),
    "1f42b": ("camel",), "1f9f8": ("teddy",), "1f392": ("rucksack",), "1f45c": ("purse",),
    "1f9f3": ("suitcase",), "1f3be": ("tennis ball",), "26bd": ("football", "sports ball"),
    "1f94f": ("frisbee",), "1f3bf": ("ski",), 
    "1f37e": ("bottle of champagne",), "1f377": ("glass of wine",), "2615": ("cup of coffee", "coffee"),
    "1f374": ("cutlery",), "1f52a": ("knife",), "1f944": ("teaspoon",), 
    "1f34e": ("apple",), "1f34a": ("orange",), "1f32d": ("hotdog",),
    "1f355": ("pizza slice",), "1f369": ("donut",), "1f370": ("cake", "piece of cake"), "1f382": ("cake with candles",),
    "1f6cb": ("couch", "sofa"), "1fab4": ("house plant",), 
    "1f4fa": ("tv", "television set"), "1f4bb": ("laptop computer", "notebook computer"),
    "1f5b1": ("mouse", "pc mouse"), "2328": ("computer keyboard",), "1f4f1": ("cell phone", "phone", "smartphone"),
    "1f4d6": ("book",), "23f0": ("clock",), "1f3fa": ("vase",), "2702": ("pair of scissors",),
    "1faa5": ("tooth brush",), "1f454": ("tie",), 
    "1f3c4": ("surfer",), "2708": ("plane", "aeroplane"), 
    
    "1f600": ("smiley",), "1f602": ("laughing emoji",), "2764": ("heart",), 
    "1f319": ("moon",), "1f4a9": ("poop",), "1f680": ("spaceship",), "1f381": ("present", "gift"),
    "1f48e": ("gem",), "1f3e0": ("home",), "1f333": ("tree",), "1f384": ("xmas tree",),
    "1f98a": ("fox face",), "1f430": ("bunny face",), "1f407": ("bunny",),
})  # fmt: skip
_IRREGULAR: Mapping[str, str] = types.MappingProxyType({
    "man": "men", "woman": "women", "child": "children", "person": "people", "mouse": "mice", "knife": "knives",
    "leaf": "leaves", "wolf": "wolves", "tooth": "teeth", "foot": "feet", "fish": "fish", "sheep": "sheep", "deer": "deer",
    "bison": "bison", "moose": "moose", "potato": "potatoes", "tomato": "tomatoes", "loaf": "loaves", "goose": "geese",
    "ox": "oxen", "policeman": "policemen", "snowman": "snowmen", "aircraft": "aircraft", "squid": "squid",
})  # fmt: skip
#: Words after which a noun's head has ended: "bowl with spoon" has bowls.
_TAIL = re.compile(
    r" (?:with|of|in|on|and|for|at|behind|from|without|to|wearing|holding|carrying|over|under) "
)
#: Words ending in s that are one thing.
_SINGULAR_S = re.compile(r"(?:ss|us|is|lens|gas|bus|chess|claus|news)$")
_AN = re.compile(r"(?:[aio]|e(?!u)|u(?!ni|s|r)|hour|honest|8|11)", re.IGNORECASE)
_UNCOUNTED = frozenset({
    "broccoli", "bread", "rice", "cooked rice", "bacon", "honey", "snow", "money", "fire", "butter", "salt", "ice", "wood",
    "sake", "yarn", "popcorn", "love letter", "dna", "jewelry", "soap",
})  # fmt: skip


def caption_nouns(sticker: Sticker, language: str) -> tuple[str, ...]:
    """Nouns for ``sticker`` in ``language``, the most usual first; English ones when it has none there."""
    names = sticker.names.get(language) or sticker.names.get("en") or next(iter(sticker.names.values()))
    cleaned = tuple(dict.fromkeys(_cleaned(name, language) for name in names))
    everyday = EVERYDAY.get(sticker.subject, ()) if language == "en" else ()
    return tuple(dict.fromkeys((*cleaned, *everyday)))


def _cleaned(name: str, language: str) -> str:
    """A label as a noun: without colon, brackets and quotation marks."""
    head, colon, rest = (part.strip() for part in _COLON.sub(":", name).partition(":"))
    if colon and head.lower() in _FLAG_WORDS:
        name = _FLAGS[language].format(rest)
    elif colon:
        name = f"{head} with {rest}" if language == "en" and rest.endswith("hair") else f"{head} {rest}"
    name = re.sub(r"\s*[(（][^)）]*[)）]", "", name)
    return " ".join(re.sub(r"[“”„«»「」\"]", "", name).split()) or name


def with_article(noun: str) -> str:
    """``"a cow"``, ``"an egg"``; plurals and what is not counted stay without."""
    if is_plural(noun) or noun.lower() in _UNCOUNTED or noun.lower().startswith("flag of"):
        return f"the {noun}" if noun.lower().startswith("flag of") else noun
    return f"{'an' if _AN.match(noun) else 'a'} {noun}"


def is_plural(noun: str) -> bool:
    """Whether the head of an English noun is plural already: ``"grapes"``, ``"people with bunny ears"``."""
    word = _head(noun).split()[-1].lower()
    return word == "people" or (word.endswith("s") and not _SINGULAR_S.search(word) and len(word) > 3)


def plural(noun: str) -> str:
    """``"cows"``, ``"bowls with spoon"``, ``"women cooks"``."""
    head = _head(noun)
    return _plural_head(head) + noun[len(head) :]


def _head(noun: str) -> str:
    tail = _TAIL.search(noun)
    return noun[: tail.start()] if tail and tail.start() else noun


def _plural_head(head: str) -> str:
    *before, word = head.split()
    low = word.lower()
    if is_plural(head):
        return head
    if low in _IRREGULAR:
        word = _IRREGULAR[low]
    elif low.endswith("y") and low[-2:-1] not in "aeiou":
        word = f"{word[:-1]}ies"
    else:
        word += "es" if low.endswith(("s", "x", "ch", "sh", "z")) else "s"
    return " ".join([*before, word])
