"""Verdicts: true scenes pass, and every kind of mistake fails by the fact that it violates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microforge.data.world.captions import (
    CATEGORIES,
    Prompt,
    PromptObject,
    evaluation_prompts,
    single_object_prompts,
)
from microforge.data.world.renderer import render
from microforge.data.world.scenes import COLORS, PLACES, Scene, SceneObject
from microforge.evaluation.generation import evaluate_prompts, generation_scores, true_renders
from microforge.evaluation.oracle.detector import detect
from microforge.evaluation.oracle.verdict import Verdict, in_region, judge, wilson_interval
from microforge.evaluation.scores import Accuracy, accuracy_of

RED_CIRCLE = SceneObject("circle", "red", "medium", 0.27, 0.5, 0.16, COLORS["red"])
BLUE_STAR = SceneObject("star", "blue", "medium", 0.73, 0.52, 0.16, COLORS["blue"])


def _prompt(*objects: PromptObject, **facts: str) -> Prompt:
    stated: dict[str, str | None] = {"background": None, "relation": None, "place": None, **facts}
    return Prompt("", "", stated["background"], objects, stated["relation"], stated["place"], False)


def _verdict(prompt: Prompt, *items: SceneObject, background: str = "white") -> Verdict:
    scene = Scene(background, COLORS[background], items, "", None)
    return judge(prompt, detect(render([scene], 128, 128)[0].permute(1, 2, 0).numpy()))


def _false(verdict: Verdict) -> set[str]:
    facts = ("shape", "color", "attribute", "count", "position", "background", "nothing_else")
    return {name for name in facts if getattr(verdict, name) is False}


BOTH = PromptObject("circle", "red"), PromptObject("star", "blue")


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("size", [128, 256])
def test_true_scenes_of_evaluation_prompts_are_correct(size: int, held_out: bool) -> None:
    results = list(evaluate_prompts(true_renders(size, size), evaluation_prompts(60, 3, held_out), seed=11))
    assert [one.verdict.reason for one in results if not one.verdict.correct] == []
    assert {one.prompt.category for one in results} >= set(CATEGORIES) - {"single object"}


def test_true_scenes_of_single_object_prompts_are_correct() -> None:
    results = list(evaluate_prompts(true_renders(128, 128), single_object_prompts(60, 3)))
    assert all(one.verdict.correct for one in results)


def test_scenes_of_other_prompts_are_not_correct() -> None:
    prompts = evaluation_prompts(120, 4)
    render_true = true_renders(128, 128)
    results = evaluate_prompts(
        lambda group, seed: render_true([prompts[(seed + i + 7) % 120] for i in range(len(group))], 0),
        prompts,
    )
    assert sum(one.verdict.correct for one in results) <= 3


def test_two_objects_that_match_the_prompt_are_correct() -> None:
    verdict = _verdict(_prompt(*BOTH, relation="left of", background="white"), RED_CIRCLE, BLUE_STAR)
    assert (
        verdict.correct and verdict.reason == "matches the prompt" and verdict.position and verdict.background
    )


def test_swapped_shape() -> None:
    verdict = _verdict(_prompt(PromptObject("circle", "red")), replace(RED_CIRCLE, shape="square"))
    assert _false(verdict) == {"shape", "attribute", "count", "nothing_else"} and verdict.color
    assert verdict.reason == "shape: found red square on white"


def test_swapped_color() -> None:
    item = replace(RED_CIRCLE, color="green", rgb=COLORS["green"])
    verdict = _verdict(_prompt(PromptObject("circle", "red")), item)
    assert _false(verdict) == {"color", "attribute", "nothing_else"} and verdict.shape


def test_colors_on_each_others_shapes() -> None:
    first, second = replace(RED_CIRCLE, rgb=COLORS["blue"]), replace(BLUE_STAR, rgb=COLORS["red"])
    assert _false(_verdict(_prompt(*BOTH), first, second)) == {"attribute", "nothing_else"}


def test_a_missing_and_an_extra_object() -> None:
    assert "shape" in _false(_verdict(_prompt(*BOTH), RED_CIRCLE))
    assert _false(_verdict(_prompt(PromptObject("circle", "red")), RED_CIRCLE, BLUE_STAR)) == {"nothing_else"}


def test_counts_are_exact_only_where_they_are_stated() -> None:
    pair = RED_CIRCLE, replace(RED_CIRCLE, x=0.75)
    for count, wrong in ((1, {"count"}), (2, set()), (3, {"count"})):
        assert _false(_verdict(_prompt(PromptObject("circle", "red", count)), *pair)) == wrong
    assert _verdict(_prompt(PromptObject("circle", "red")), *pair).correct


@pytest.mark.parametrize("relation", ["right of", "above", "below"])
def test_a_relation_that_does_not_hold(relation: str) -> None:
    assert _false(_verdict(_prompt(*BOTH, relation=relation), RED_CIRCLE, BLUE_STAR)) == {"position"}


def test_places_and_backgrounds() -> None:
    circle = PromptObject("circle", "red")
    assert _verdict(_prompt(circle, place="left"), RED_CIRCLE).correct
    assert _false(_verdict(_prompt(circle, place="top left"), RED_CIRCLE)) == {"position"}
    assert _false(_verdict(_prompt(circle, background="gray"), RED_CIRCLE)) == {"background"}


def test_place_centers_lie_in_their_own_region_only() -> None:
    for place in PLACES:
        assert [other for other, center in PLACES.items() if in_region(place, *center)] == [place]


def test_facts_that_are_not_stated_are_not_judged() -> None:
    verdict = _verdict(_prompt(PromptObject("star")), BLUE_STAR)
    assert verdict.correct
    assert (verdict.color, verdict.attribute, verdict.position, verdict.background) == (None,) * 4


def test_the_split_compares_the_same_categories() -> None:
    results = list(evaluate_prompts(true_renders(64, 64), evaluation_prompts(24, 0)))
    split = generation_scores(results).split
    assert set(split.seen.categories) == set(split.held_out.categories)
    assert "single object" not in split.seen.categories


def test_seeds_do_not_depend_on_the_batch_size() -> None:
    prompts = evaluation_prompts(7, 2)
    one, many = (list(evaluate_prompts(true_renders(64, 64), prompts, 5, batch)) for batch in (1, 4))
    assert [a.seed for a in one] == [b.seed for b in many] == list(range(5, 12))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, many, strict=True))


@given(total=st.integers(0, 10_000), data=st.data())
def test_wilson_holds_the_proportion_and_stays_in_bounds(total: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, total))
    low, high = wilson_interval(successes, total)
    assert 0.0 <= low <= (successes / total if total else 0.5) <= high <= 1.0
    mirrored = wilson_interval(total - successes, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_against_published_values() -> None:
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    for bad in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError):
            wilson_interval(*bad)


def test_the_accuracy_of_no_results_is_none() -> None:
    assert accuracy_of([]) == Accuracy(correct=0, total=0, accuracy=None, low=0.0, high=1.0)
