"""Emoji are found by their names in six languages."""

from __future__ import annotations

import pytest

from microforge_runtimes.commands.pack import split_emoji
from microforge_runtimes.stickers.emoji_names import emoji_of


@pytest.mark.parametrize(
    ("prompt", "emoji"),
    [
        ("two cats and a pizza", ("🐈️", "🍕")), ("a hot dog", ("🌭",)), ("ein Hund", ("🐕️",)), ("un gato", ("🐈️",)),
        ("一只猫", ("🐈️",)), ("a red circle left of a blue square", ("🔴", "🟦")), ("nothing that has a xyzzy", ()),
    ],
)  # fmt: skip
def test_a_prompt_gets_the_emoji_that_it_names(prompt: str, emoji: tuple[str, ...]) -> None:
    assert emoji_of(prompt, 3) == emoji


def test_at_most_as_many_as_asked_are_given() -> None:
    assert len(emoji_of("a cat, a dog, a pizza and a rocket", 2)) == 2


def test_emoji_of_several_code_points_stay_whole() -> None:
    assert list(split_emoji("🐕‍🦺👍🏽 🇫🇷🇩🇪, ❤️")) == ["🐕‍🦺", "👍🏽", "🇫🇷", "🇩🇪", "❤️"]
