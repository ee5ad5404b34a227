"""Scenes: which compositions are possible, and which training never shows."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.data.world.scenes import (
    COLOR_JITTER,
    COLORS,
    EXTENT,
    HELD_OUT,
    HELD_OUT_RELATIONS,
    KINDS,
    MIN_CONTRAST,
    PLACES,
    RADIUS_JITTER,
    RELATIONS,
    SHAPES,
    SIZES,
    color_distance,
    is_clear,
    is_held_out,
    place_of,
    relation_holds,
    relation_is_held_out,
    sample_scene,
)
from microforge.errors import DataError

seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(tuple(KINDS))


@settings(max_examples=200, deadline=None)
@given(seeds, kinds, st.booleans())
def test_sample_scene_keeps_objects_apart_inside_and_visible(seed: int, kind: str, held_out: bool) -> None:
    scene = sample_scene(np.random.default_rng(seed), kind, held_out)
    for item in scene.objects:
        reach = EXTENT * item.radius
        assert reach <= item.x <= 1 - reach and reach <= item.y <= 1 - reach
        assert math.isclose(item.radius, SIZES[item.size], rel_tol=RADIUS_JITTER + 1e-9)
        assert all(
            abs(a - b) <= COLOR_JITTER + 1e-9 and 0 <= a <= 1
            for a, b in zip(item.rgb, COLORS[item.color], strict=True)
        )
        assert color_distance(item.color, scene.background) >= MIN_CONTRAST
    assert all(is_clear(a, [b]) for a, b in itertools.combinations(scene.objects, 2))


@settings(max_examples=200, deadline=None)
@given(seeds, kinds, st.booleans())
def test_sample_scene_is_held_out_exactly_when_requested(seed: int, kind: str, held_out: bool) -> None:
    assert is_held_out(sample_scene(np.random.default_rng(seed), kind, held_out)) == held_out


@settings(max_examples=200, deadline=None)
@given(seeds, kinds)
def test_sample_scene_matches_its_kind(seed: int, kind: str) -> None:
    scene = sample_scene(np.random.default_rng(seed), kind)
    pairs = [(item.color, item.shape) for item in scene.objects]
    if kind == "single":
        assert len(pairs) == 1
    elif kind == "counting":
        assert 2 <= len(pairs) <= 4 and len(set(pairs)) == 1
        assert len({item.size for item in scene.objects}) == 1
    else:
        assert len(pairs) == 2 and pairs[0][1] != pairs[1][1]
        assert kind != "attribute" or pairs[0][0] != pairs[1][0]
    assert (scene.relation is not None) == (kind == "position")
    if scene.relation is not None:
        first, second = scene.objects
        assert relation_holds(scene.relation, (first.x, first.y), (second.x, second.y))


def test_sample_scene_repeats_with_the_same_seed() -> None:
    first, second = (
        [sample_scene(rng) for _ in range(50)] for rng in (np.random.default_rng(3), np.random.default_rng(3))
    )
    assert first == second


def test_sample_scene_follows_the_stated_mix() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(4000)]
    counts = Counter(scene.kind for scene in scenes)
    for kind, share in KINDS.items():
        assert abs(counts[kind] / 4000 - share) < 0.03
    white = sum(scene.background == "white" for scene in scenes) / 4000
    assert 0.50 < white < 0.60


def test_sample_scene_refuses_an_unknown_kind() -> None:
    with pytest.raises(DataError, match="unknown scene kind 'crowd'; allowed: single"):
        sample_scene(np.random.default_rng(0), "crowd")


def test_held_out_leaves_every_color_and_shape_seen() -> None:
    assert 8 <= len(HELD_OUT) <= 12
    assert max(Counter(color for color, _ in HELD_OUT).values()) <= 2
    assert max(Counter(shape for _, shape in HELD_OUT).values()) <= 2
    assert {color for color, _ in HELD_OUT} <= set(COLORS) and {shape for _, shape in HELD_OUT} <= set(SHAPES)


def test_relation_is_held_out_also_when_read_backwards() -> None:
    assert ("left of", "star", "cross") in HELD_OUT_RELATIONS
    assert relation_is_held_out("right of", "cross", "star")
    assert not relation_is_held_out("left of", "cross", "star")
    assert all(relation in RELATIONS for relation, _, _ in HELD_OUT_RELATIONS)


def test_place_of_names_every_place_by_its_centre() -> None:
    assert {place: place_of(x, y) for place, (x, y) in PLACES.items()} == {place: place for place in PLACES}


def test_colors_are_far_apart_and_sizes_do_not_overlap() -> None:
    assert min(color_distance(a, b) for a, b in itertools.combinations(COLORS, 2)) > 0.4
    radii = list(SIZES.values())
    for small, large in itertools.pairwise(radii):
        assert small * (1 + RADIUS_JITTER) < large * (1 - RADIUS_JITTER)
