"""Emoji that describe a prompt, found by their names in six languages. No torch.

``emoji_names.tsv.gz`` has a line per emoji, without skin tones: the emoji, then its names in ``LANGUAGES``, several separated by ";".
They are Emojibase's (MIT), after Unicode's CLDR; ``scripts/make_emoji_names.py`` writes the file.
"""

from __future__ import annotations

import functools
import gzip
import importlib.resources
import re
from collections import Counter
from collections.abc import Sequence

LANGUAGES = ("en", "es", "fr", "de", "pt", "zh")
#: What a prompt without a known name gets.
UNKNOWN = "✨"
_FILE = "emoji_names.tsv.gz"
#: English names of two words that end in the same word, at least: that word is a kind of thing.
_KIND = 4
#: Plural endings that a word may have beyond its name, of letters that follow at least three others.
_PLURAL = re.compile(r"(?<=\w{3})(?:es|s|en|x)$")


def emoji_of(prompt: str, most: int) -> tuple[str, ...]:
    """At most ``most`` emoji whose names stand in ``prompt``, in its order; () when there is none.

    The language is the one whose names cover most of the prompt. Longer names come before shorter ones: "hot dog" is
    no dog.
    """
    candidates = (_matches(prompt, language) for language in LANGUAGES)
    best = max(candidates, key=lambda item: item[0])  # the first of equal ones: English
    return tuple(dict.fromkeys(best[1]))[:most]


def _matches(prompt: str, language: str) -> tuple[int, list[str]]:
    """How many words, or Chinese characters, names of a language cover, and their emoji."""
    names = _names()[language]
    units = _units(prompt, language)
    longest = max((len(name) for name in names), default=0)
    covered, emoji, start = 0, [], 0
    while start < len(units):
        lengths = range(min(longest, len(units) - start), 0, -1)
        length = next((count for count in lengths if tuple(units[start : start + count]) in names), 0)
        if length:
            emoji.append(names[tuple(units[start : start + length])])
        covered, start = covered + length, start + max(length, 1)
    return covered, emoji


def _units(text: str, language: str) -> Sequence[str]:
    """The words of ``text`` without plural endings; its characters in Chinese."""
    if language == "zh":
        return [char for char in text if "\u4e00" <= char <= "\u9fff"]
    return [_PLURAL.sub("", word) for word in re.findall(r"\w+", text.casefold())]


@functools.cache
def _names() -> dict[str, dict[tuple[str, ...], str]]:
    """Language -> name as units -> emoji; the first of several with a name."""
    data = importlib.resources.files(__package__).joinpath(_FILE).read_bytes()
    names: dict[str, dict[tuple[str, ...], str]] = {language: {} for language in LANGUAGES}
    for line in gzip.decompress(data).decode("utf-8").splitlines():
        emoji, *columns = line.split("\t")
        for language, column in zip(LANGUAGES, columns, strict=True):
            for name in filter(None, column.split(";")):
                units = tuple(_units(name, language))
                if units:
                    names[language].setdefault(units, emoji)
    english = names["en"]
    pairs = [units for units in english if len(units) == 2]
    counts = Counter(kind for _, kind in pairs)
    for units in pairs:  # "heart" is no name, "sparkling heart" and others are
        if counts[units[1]] >= _KIND:
            english.setdefault(units[1:], english[units])
    return names
