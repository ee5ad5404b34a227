"""Rules of options: a table says where an option belongs, and one function checks them all."""

from __future__ import annotations

import pytest

from microforge.errors import SpecError
from microforge.io.option_rules import check_exclusive, check_places

PLACES = {"--crop": ("vae",), "--teacher": ("kd", "edit", "reward")}


@pytest.mark.parametrize("value", [None, False])
def test_an_option_that_was_left_out_belongs_anywhere(value: object) -> None:
    check_places("the stage", "flow", {"--crop": value, "--teacher": value}, PLACES)


def test_an_option_without_a_rule_belongs_anywhere() -> None:
    check_places("the stage", "flow", {"--seed": 0, "--crop": None}, PLACES)


@pytest.mark.parametrize("value", [0, "", 64])
def test_a_value_that_is_only_falsy_counts_as_given(value: object) -> None:
    with pytest.raises(SpecError, match="--crop belongs to the stage vae, not to flow"):
        check_places("the stage", "flow", {"--crop": value}, PLACES)


def test_places_are_listed_as_in_a_sentence() -> None:
    with pytest.raises(SpecError, match="--teacher belongs to the stages kd, edit and reward, not to vae"):
        check_places("the stage", "vae", {"--teacher": "x"}, PLACES)
    with pytest.raises(SpecError, match="--mask belongs to --task inpaint and edit, not to generate"):
        check_places("--task", "generate", {"--mask": "x"}, {"--mask": ("inpaint", "edit")})


def test_options_that_exclude_each_other_are_refused_only_together() -> None:
    pairs = (("steps", "minutes", "both set the length of the run"),)
    for options in ({"steps": 1}, {"minutes": 1.0}, {"steps": 1, "minutes": None}):
        check_exclusive(options, pairs)
    with pytest.raises(
        SpecError, match="steps and minutes exclude each other: both set the length of the run; give one"
    ):
        check_exclusive({"steps": 1, "minutes": 1.0}, pairs)
