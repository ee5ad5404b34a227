"""Captions say true things in varied words; prompts carry the facts an oracle checks."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.data.world.caption_reader import read_caption
from microforge.data.world.captions import (
    CATEGORIES,
    COLOR_WORDS,
    NUMBERS,
    SHAPE_WORDS,
    caption,
    evaluation_prompts,
    plural,
    single_object_prompts,
    with_article,
)
from microforge.data.world.scenes import (
    COLORS,
    HELD_OUT,
    KINDS,
    PLACES,
    RELATIONS,
    Scene,
    SceneObject,
    place_of,
    relation_holds,
    relation_is_held_out,
    sample_scene,
)

_SHAPE = {word: shape for shape, words in SHAPE_WORDS.items() for word in words}
_COLOR = {word: color for color in COLORS for word in COLOR_WORDS.get(color, (color,))}
_NOUNS = "|".join(sorted((form for word in _SHAPE for form in (plural(word), word)), key=len, reverse=True))


def _mentioned(text: str) -> list[tuple[str | None, str]]:
    """(color or None, shape) in order of mention."""
    matches = re.findall(rf"(?:\b({'|'.join(_COLOR)}) )?\b({_NOUNS})\b", text.lower())
    singular = {plural(word): word for word in _SHAPE}
    return [(_COLOR.get(color), _SHAPE[singular.get(noun, noun)]) for color, noun in matches]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(tuple(KINDS)))
def test_caption_names_exactly_the_objects_of_the_scene(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, kind)
    text = caption(scene, rng)
    expected = {(item.color, item.shape) for item in scene.objects}
    named = _mentioned(text)
    assert len(named) == len(expected), text
    assert {shape for _, shape in named} == {shape for _, shape in expected}
    assert all(color is None or (color, shape) in expected for color, shape in named), text
    if kind in ("counting", "attribute", "position"):
        assert all(color is not None for color, _ in named), text


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(tuple(KINDS)))
def test_caption_states_only_the_true_background_and_count(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, kind)
    text = caption(scene, rng).lower()
    background = re.search(r"(\w+) back(?:ground|drop)", text)
    assert background is None or _COLOR[background[1]] == scene.background
    if kind == "counting":
        count = len(scene.objects)
        assert re.search(rf"\b({count}|{NUMBERS[count]})\b", text), text


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_caption_that_places_both_objects_places_each_correctly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, "attribute")
    text = re.sub("upper", "top", re.sub("lower", "bottom", caption(scene, rng).lower()))
    for item in scene.objects:
        word = rf"(?:{'|'.join(SHAPE_WORDS[item.shape])})"
        color = rf"(?:{'|'.join(COLOR_WORDS.get(item.color, (item.color,)))})"
        match = re.search(
            rf"{color} {word} (?:in|on|at|near) the ((?:top|bottom)? ?(?:left|right)?)(?: side| corner)?(?:,| and| |\.|$)",
            text,
        )
        if match and not re.search(r"(left|right) of", text):
            assert match[1].strip() == place_of(item.x, item.y), text


def test_caption_never_states_a_held_out_relation() -> None:
    first = SceneObject("star", "blue", "small", 0.25, 0.5, 0.12, COLORS["blue"])
    second = SceneObject("cross", "green", "small", 0.75, 0.5, 0.12, COLORS["green"])
    rng = np.random.default_rng(0)
    hidden = Scene("white", COLORS["white"], (first, second), "two", None)
    seen = replace(hidden, objects=(first, replace(second, shape="heart")))
    assert not any(re.search("left|right", caption(hidden, rng)) for _ in range(300))
    assert sum("on the left" in caption(seen, rng) for _ in range(300)) > 30


def test_caption_names_two_objects_in_reading_order_unless_it_states_their_relation() -> None:
    rng = np.random.default_rng(0)
    unsaid = 0
    for _ in range(600):
        scene = sample_scene(rng, "two")
        text = caption(scene, rng).lower()
        parsed = read_caption(text)
        if parsed.relation or re.search("left|right|top|bottom|upper|lower|middle|cent", text):
            continue
        unsaid += 1
        first, second = sorted(scene.objects, key=lambda item: item.x + item.y)
        names = [item.shape for item in parsed.objects]
        relations = [
            name for name in RELATIONS if relation_holds(name, (first.x, first.y), (second.x, second.y))
        ]
        if not any(relation_is_held_out(name, first.shape, second.shape) for name in relations):
            assert names == [first.shape, second.shape], text
    assert unsaid > 150


def test_caption_does_not_reveal_a_held_out_relation_by_its_order() -> None:
    first = SceneObject("star", "blue", "small", 0.25, 0.5, 0.12, COLORS["blue"])
    second = SceneObject("cross", "green", "small", 0.75, 0.5, 0.12, COLORS["green"])
    rng = np.random.default_rng(0)
    hidden = Scene("white", COLORS["white"], (first, second), "two", None)
    order = [read_caption(caption(hidden, rng)).objects[0].shape for _ in range(300)]
    assert 0.4 < order.count("star") / len(order) < 0.6


def test_caption_mentions_other_backgrounds_far_more_often_than_white() -> None:
    rng = np.random.default_rng(0)
    said: dict[bool, list[bool]] = {True: [], False: []}
    for _ in range(2000):
        scene = sample_scene(rng)
        text = caption(scene, rng)
        said[scene.background == "white"].append("background" in text or "backdrop" in text)
    assert 0.2 < np.mean(said[True]) < 0.4
    assert np.mean(said[False]) > 0.75


def test_caption_of_two_shapes_sometimes_omits_colors_with_and_without_a_background() -> None:
    rng = np.random.default_rng(0)
    texts = [caption(sample_scene(rng, "two"), rng).lower() for _ in range(1000)]
    plain = [text for text in texts if not any(word in text.split(" on ")[0] for word in COLORS)]
    with_background = [text for text in plain if "back" in text or "against" in text]
    assert len(plain) > 200 and len(with_background) > 40


@pytest.mark.parametrize("kind", KINDS)
def test_caption_takes_many_forms_of_one_scene(kind: str) -> None:
    rng = np.random.default_rng(2)
    scene = sample_scene(rng, kind)
    assert len({caption(scene, rng) for _ in range(300)}) > 20


def test_with_article_and_plural_follow_english() -> None:
    assert with_article("orange ring") == "an orange ring" and with_article("red ring") == "a red ring"
    assert [plural(word) for word in ("star", "cross", "plus", "plus sign")] == [
        "stars", "crosses", "pluses", "plus signs",
    ]  # fmt: skip


@pytest.mark.parametrize("held_out", [False, True, None])
def test_evaluation_prompts_have_the_facts_of_their_text(held_out: bool | None) -> None:
    prompts = evaluation_prompts(110, seed=4, held_out=held_out)
    assert len(prompts) == 110
    for prompt in prompts:
        named = _mentioned(prompt.text)
        assert named == [(item.color, item.shape) for item in prompt.objects], prompt
        assert (prompt.background is not None) == ("background" in prompt.text)
        assert prompt.relation is None or f" {prompt.relation} " in prompt.text
        for item in prompt.objects:
            assert item.count is None or prompt.text.startswith(NUMBERS[item.count])
        if held_out is not None:
            assert prompt.held_out == held_out


def test_evaluation_prompts_cover_every_category_and_relation() -> None:
    prompts = evaluation_prompts(500, seed=0)
    assert {prompt.category for prompt in prompts} == set(CATEGORIES)
    assert {prompt.relation for prompt in prompts} == {*RELATIONS, None}
    assert 0.3 < np.mean([prompt.held_out for prompt in prompts]) < 0.6
    assert prompts == evaluation_prompts(500, seed=0)


def test_single_object_prompts_name_one_seen_object() -> None:
    for prompt in single_object_prompts(200, seed=1):
        [item] = prompt.objects
        assert item.color is not None and (item.color, item.shape) not in HELD_OUT
        assert prompt.place is None or (prompt.place in PLACES and f" the {prompt.place}" in prompt.text)
