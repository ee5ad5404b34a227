"""Recipe files: what is written reads back equal, and nothing unknown is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.errors import SpecError
from microforge_export.recipes.int8_recipe import (
    SCHEMES,
    Calibration,
    Host,
    Int8Limits,
    Int8Recipe,
    MeasuredCandidate,
)
from microforge_export.recipes.recipe_file import parse_recipe, read_recipe, render_recipe

_names = st.from_regex(r"[A-Za-z0-9_.*@+-]{1,8}( [A-Za-z0-9_.*@+-]{1,8})?", fullmatch=True)
_floats = st.floats(allow_nan=False, allow_infinity=False)
_roles = st.sampled_from(("text_encoder", "denoiser", "vae_decoder"))
_counts = st.integers(0, 2**40)
_candidates = st.builds(
    MeasuredCandidate, component=_roles, group=_names, scheme=st.sampled_from((*SCHEMES["onnx"], "mixed")), psnr_db=_floats,
    milliseconds=_floats, fp32_milliseconds=_floats, bytes=_counts, fp32_bytes=_counts, chosen=st.booleans(),
)  # fmt: skip
_notes = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp", "Zs"), exclude_characters='"\\'),
    max_size=9,
)
_recipes = st.sampled_from(sorted(SCHEMES)).flatmap(lambda target: st.builds(
    Int8Recipe, model=_names, target=st.just(target), prefer=st.sampled_from(("speed", "size")), note=_notes,
    calibration=st.builds(Calibration, samples=_counts), host=st.builds(Host, machine=_names, instructions=st.lists(_names, max_size=3).map(tuple), threads=_counts),
    limits=st.builds(Int8Limits, component_psnr_db=_floats, relative_state_error=_floats),
    schemes=st.dictionaries(_roles, st.dictionaries(_names, st.sampled_from(SCHEMES[target]), max_size=3)),
    candidates=st.lists(_candidates, max_size=2).map(tuple),
))  # fmt: skip

SMALL = """
model = "nano"
target = "onnx"
[host]
machine = "x86_64"
instructions = ["avx2"]
threads = 2
[schemes.vae_decoder]
"conv decoder" = "static"
"""


@settings(max_examples=60, deadline=None)
@given(_recipes)
def test_render_and_parse_are_inverse(recipe: Int8Recipe) -> None:
    assert parse_recipe(render_recipe(recipe)) == recipe


def test_parse_fills_limits_and_candidates_that_are_absent() -> None:
    recipe = parse_recipe(SMALL)
    assert recipe.limits == Int8Limits() and recipe.candidates == ()
    assert recipe.schemes == {"vae_decoder": {"conv decoder": "static"}}


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ('"static"', '"int3"', "allowed: fp32"),
        ('"static"', '"linear8"', "allowed: fp32"),
        ('target = "onnx"', 'target = "onnx"\nprefer = "beauty"', "allowed: speed, size"),
        ('target = "onnx"', 'target = "onnx"\nnote = "a \\"b\\""', "without quotes"),
        ('target = "onnx"', 'target = "tvm"', "allowed: onnx"),
        ('model = "nano"', "", "lacks 'model'"),
        ('model = "nano"', 'model = "a\\u0000b"', "names have"),
        ("threads = 2", "threads = 2.5", "host.threads"),
        ("threads = 2", "threads = true", "host.threads"),
        ("threads = 2", "thread = 2", "unknown key 'thread'"),
        ("[host]", "[limits]\nrelative_state_error = nan\n[host]", "limits.relative_state_error"),
        ("schemes.vae_decoder", 'schemes."a, b"', "names have letters"),
        ("[host]", "[host", "not TOML"),
    ],
)
def test_parse_refuses_what_it_does_not_know(before: str, after: str, named: str) -> None:
    assert before in SMALL
    with pytest.raises(SpecError, match=named.replace("[", r"\[")):
        parse_recipe(SMALL.replace(before, after, 1))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_parse_answers_any_text_with_a_recipe_or_a_spec_error(text: str) -> None:
    with pytest.raises(SpecError):
        parse_recipe(text)


def test_read_names_a_file_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.toml"):
        read_recipe(tmp_path / "none.toml")
