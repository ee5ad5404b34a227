"""A caption read back: every prompt's own facts, and of free captions what their scene really shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.data.world.caption_reader import read_caption
from microforge.data.world.captions import (
    PromptObject,
    caption,
    evaluation_prompts,
    single_object_prompts,
)
from microforge.data.world.scenes import KINDS, place_of, relation_holds, sample_scene
from microforge.errors import PromptError


def test_read_caption_recovers_the_facts_of_every_prompt() -> None:
    for prompt in (*evaluation_prompts(240, seed=5), *single_object_prompts(60, seed=5)):
        parsed = read_caption(prompt.text)
        facts = (parsed.objects, parsed.background, parsed.relation, parsed.place)
        assert facts == (prompt.objects, prompt.background, prompt.relation, prompt.place), prompt.text


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(tuple(KINDS)))
def test_read_caption_states_only_facts_of_the_scene(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, kind)
    text = caption(scene, rng)
    parsed = read_caption(text)
    shown = {item.shape: item for item in scene.objects}
    assert {item.shape for item in parsed.objects} == set(shown), text
    assert all(item.color in (None, shown[item.shape].color) for item in parsed.objects), text
    assert parsed.background in (None, scene.background), text
    counted = len(scene.objects) if kind == "counting" else None
    assert all(item.count == counted for item in parsed.objects), text
    if parsed.relation is not None:
        first, second = (shown[item.shape] for item in parsed.objects)
        assert relation_holds(parsed.relation, (first.x, first.y), (second.x, second.y)), text
    elif kind == "position":
        assert " on the " in text or " at " in text or " in the " in text or " near " in text, text
    if parsed.place is not None:
        assert parsed.place == place_of(scene.objects[0].x, scene.objects[0].y), text


def test_read_caption_knows_synonyms_and_places() -> None:
    parsed = read_caption(
        "A picture of a tiny violet plus sign in the upper left corner against a grey backdrop."
    )
    assert parsed.objects == (PromptObject("cross", "purple"),)
    assert (parsed.background, parsed.place, parsed.relation) == ("gray", "top left", None)
    assert read_caption("a red disc is to the left of a donut").relation == "left of"


def test_read_caption_refuses_a_text_without_shapes() -> None:
    with pytest.raises(PromptError, match="names no shape"):
        read_caption("a cat on a sofa")
