"""Nouns of captions: labels as people say them, articles and plurals, in the languages that have them."""

from __future__ import annotations

import pytest

from microforge.data.stickers.catalogue import Sticker
from microforge.data.stickers.grammars import GRAMMARS
from microforge.data.stickers.nouns import caption_nouns, plural, with_article
from microforge.data.world.scenes import COLORS, PLACES, RELATIONS, SHAPES


def _sticker(language: str, name: str, subject: str = "x") -> Sticker:
    return Sticker("x.png", subject, "flat", "", "own", {language: (name,)}, {})


@pytest.mark.parametrize(
    ("language", "label", "noun"),
    [
        ("en", "flag: France", "flag of France"), ("es", "Bandera: Francia", "bandera de Francia"),
        ("fr", "drapeau\u202f: France", "drapeau de France"), ("de", "Flagge: Frankreich", "Flagge von Frankreich"),
        ("zh", "旗: 法国", "法国国旗"), ("en", "man: red hair", "man with red hair"), ("en", "keycap: 7", "keycap 7"),
        ("en", "A button (blood type)", "A button"), ("en", "Japanese “bargain” button", "Japanese bargain button"),
    ],
)  # fmt: skip
def test_labels_become_nouns(language: str, label: str, noun: str) -> None:
    assert caption_nouns(_sticker(language, label), language) == (noun,)


def test_everyday_words_stand_beside_the_label_and_missing_languages_are_english() -> None:
    car = _sticker("en", "automobile", "1f697")
    assert caption_nouns(car, "en") == ("automobile", "car")
    assert caption_nouns(car, "fr") == ("automobile",)


@pytest.mark.parametrize(
    ("noun", "said", "several"),
    [
        ("cow", "a cow", "cows"), ("egg", "an egg", "eggs"), ("unicorn", "a unicorn", "unicorns"),
        ("umbrella", "an umbrella", "umbrellas"), ("grapes", "grapes", "grapes"), ("bus", "a bus", "buses"),
        ("bowl with spoon", "a bowl with spoon", "bowls with spoon"), ("cherry", "a cherry", "cherries"),
        ("mouse", "a mouse", "mice"), ("flag of France", "the flag of France", "flags of France"),
        ("broccoli", "broccoli", "broccolis"), ("cross", "a cross", "crosses"), ("euro banknote", "a euro banknote", "euro banknotes"),
        ("people with bunny ears", "people with bunny ears", "people with bunny ears"),
    ],
)  # fmt: skip
def test_english_articles_and_plurals(noun: str, said: str, several: str) -> None:
    assert with_article(noun) == said and plural(noun) == several


@pytest.mark.parametrize("language", list(GRAMMARS))
def test_every_grammar_has_a_word_for_everything_in_the_world(language: str) -> None:
    grammar = GRAMMARS[language]
    assert set(grammar.colors) == set(grammar.backgrounds) == set(COLORS)
    assert set(grammar.places) == set(PLACES) and set(grammar.relations) == set(RELATIONS)
    assert set(grammar.shapes) == set(SHAPES) and set(grammar.sizes) == {"small", "medium", "large"}
    for table in (grammar.colors, grammar.places, grammar.relations, grammar.shapes, grammar.styles):
        assert len(set(table.values())) == len(table)  # no two things are called the same
    assert grammar.style("my own") == "my own"
