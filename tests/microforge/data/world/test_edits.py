"""Edit triples: the target is the source with exactly the named change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.data.world.captions import caption
from microforge.data.world.edits import OPERATIONS, sample_edit
from microforge.data.world.scenes import (
    MIN_CONTRAST,
    PLACES,
    color_distance,
    is_clear,
    is_held_out,
    place_of,
)
from microforge.errors import DataError

seeds = st.integers(0, 2**32 - 1)
operations = st.sampled_from(tuple(OPERATIONS))


@settings(max_examples=200, deadline=None)
@given(seeds, operations)
def test_sample_edit_targets_are_legal_seen_scenes(seed: int, operation: str) -> None:
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng, operation)
    assert edit.operation == operation and edit.instruction.strip()
    assert not is_held_out(edit.source) and not is_held_out(edit.target)
    items = edit.target.objects
    for index, item in enumerate(items):
        assert color_distance(item.color, edit.target.background) >= MIN_CONTRAST
        assert is_clear(item, items[:index])
    assert caption(edit.target, rng)


@settings(max_examples=200, deadline=None)
@given(seeds, operations)
def test_sample_edit_changes_only_what_its_operation_names(seed: int, operation: str) -> None:
    edit = sample_edit(np.random.default_rng(seed), operation)
    before, after = edit.source.objects, edit.target.objects
    assert (edit.source.background != edit.target.background) == (operation == "background")
    if operation == "add":
        assert after[:-1] == before
        return
    if operation == "remove":
        assert len(after) == len(before) - 1 and set(after) < set(before)
        return
    fields = {"recolor": {"color", "rgb"}, "reshape": {"shape"}, "move": {"x", "y"}, "background": set()}
    changed = {
        name
        for a, b in zip(before, after, strict=True)
        for name in vars(a)
        if getattr(a, name) != getattr(b, name)
    }
    assert changed <= fields[operation] and bool(changed) == (operation != "background")


def test_sample_edit_moves_to_the_place_of_its_instruction() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        edit = sample_edit(rng, "move")
        [moved] = [item for item in edit.target.objects if item not in edit.source.objects]
        text = edit.instruction.replace("upper", "top").replace("lower", "bottom").replace("middle", "center")
        text = text.replace("centre", "center")
        named = max((place for place in PLACES if f" {place}" in text), key=len)
        assert place_of(moved.x, moved.y) == named, edit.instruction


def test_sample_edit_without_an_operation_yields_each() -> None:
    rng = np.random.default_rng(1)
    assert {sample_edit(rng).operation for _ in range(100)} == set(OPERATIONS)


def test_sample_edit_refuses_an_unknown_operation() -> None:
    with pytest.raises(DataError, match="unknown edit operation 'rotate'; allowed: recolor"):
        sample_edit(np.random.default_rng(0), "rotate")
