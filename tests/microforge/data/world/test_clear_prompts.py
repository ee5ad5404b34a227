"""Vague prompts and what they are read as."""

from __future__ import annotations

import numpy as np
import pytest

from microforge.data.world.caption_reader import read_caption
from microforge.data.world.clear_prompts import READING, SHARE, reading_relation, rewrites
from microforge.data.world.scenes import HELD_OUT, HELD_OUT_RELATIONS, SHAPES, relation_is_held_out


def test_rewrites_are_the_same_again_and_the_stated_share_of_them_is_vague() -> None:
    found = rewrites(1_000, seed=3)
    assert found == rewrites(1_000, seed=3) != rewrites(1_000, seed=4)
    vague = np.mean([one.asked != one.meant.text for one in found])
    assert abs(vague - SHARE) < 0.06


def test_a_vague_prompt_and_what_it_means_name_the_same_things_in_the_same_order() -> None:
    for one in rewrites(600, seed=5):
        asked, meant = read_caption(one.asked), read_caption(one.meant.text)
        assert asked.objects == meant.objects == one.meant.objects
        assert asked.background == meant.background == one.meant.background
        assert meant.relation == one.meant.relation
        if one.asked != one.meant.text:
            first, second = (item.shape for item in meant.objects)
            assert asked.relation is None and meant.relation == reading_relation(first, second)


def test_clear_prompts_mean_what_they_say_and_are_of_every_kind() -> None:
    clear = [one.meant for one in rewrites(600, seed=6) if one.asked == one.meant.text]
    assert any(one.objects[0].count for one in clear) and any(one.relation == "below" for one in clear)
    assert any(len(one.objects) == 1 and not one.objects[0].count for one in clear)


def test_no_held_out_composition_is_asked_for_or_meant() -> None:
    for one in rewrites(2_000, seed=7):
        assert {(item.color, item.shape) for item in one.meant.objects}.isdisjoint(HELD_OUT)
        if one.meant.relation:
            first, second = (item.shape for item in one.meant.objects)
            assert not relation_is_held_out(one.meant.relation, first, second)


@pytest.mark.parametrize(("relation", "first", "second"), sorted(HELD_OUT_RELATIONS))
def test_a_pair_whose_first_relation_is_held_out_is_read_as_the_other(
    relation: str, first: str, second: str
) -> None:
    assert reading_relation(first, second) == next(name for name in READING if name != relation)
    assert all(reading_relation(one, other) in READING for one in SHAPES for other in SHAPES if one != other)
