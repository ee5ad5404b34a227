"""INT8 recipes: what is written reads back equal, and nothing unknown is let through."""

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
    Scheme,
    component_precision,
    parse_recipe,
    read_recipe,
    render_recipe,
    resolve,
    role_schemes,
    safer,
)

_names = st.from_regex(r"[A-Za-z0-9_.*@+-]{1,8}( [A-Za-z0-9_.*@+-]{1,8})?", fullmatch=True)
_floats = st.floats(allow_nan=False, allow_infinity=False)
_roles = st.sampled_from(("text_encoder", "denoiser", "vae_decoder"))
_counts = st.integers(0, 2**40)
_rows = st.builds(
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
    rows=st.lists(_rows, max_size=2).map(tuple),
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


def test_parse_fills_limits_and_rows_that_are_absent() -> None:
    recipe = parse_recipe(SMALL)
    assert recipe.limits == Int8Limits() and recipe.rows == ()
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
        ("schemes.vae_decoder", "schemes.decoder", "allowed: text_encoder"),
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


GROUPS: dict[str, tuple[Scheme, ...]] = {
    "conv a": ("weight-only", "static"), "matmul b": ("weight-only", "dynamic", "static"), "gather c": ("weight-only",),
}  # fmt: skip


def test_resolve_fills_the_rest_with_what_each_operator_can_have() -> None:
    assert resolve({"*": "dynamic", "matmul b": "fp32"}, GROUPS, "onnx") == {
        "conv a": "weight-only", "matmul b": "fp32", "gather c": "weight-only",
    }  # fmt: skip
    assert resolve({"conv a": "static"}, GROUPS, "onnx")["matmul b"] == "fp32"
    assert set(resolve({"*": "palettize4"}, {"all": ("linear8",)}, "coreml").values()) == {"linear8"}


@pytest.mark.parametrize(
    ("schemes", "named"),
    [
        ({"conv z": "static"}, "this model has: conv a"),
        ({"gather c": "static"}, "allowed: fp32, weight-only"),
    ],
)
def test_resolve_refuses_what_the_model_cannot(schemes: dict[str, Scheme], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        resolve(schemes, GROUPS, "onnx")


def test_safer_goes_step_by_step_to_floating_point() -> None:
    steps: list[Scheme] = ["static"]
    while steps[-1] != "fp32":
        steps.append(safer(steps[-1], GROUPS["conv a"], "onnx"))
    assert steps == ["static", "weight-only", "fp32"]


def test_the_edit_layout_takes_the_schemes_of_the_denoiser_whose_weights_it_has() -> None:
    recipe = parse_recipe(SMALL.replace("vae_decoder", "denoiser"))
    assert role_schemes(recipe, "denoiser_edit") == {"conv decoder": "static"}
    assert component_precision(recipe, "denoiser_edit") == "int8"
    assert component_precision(recipe, "vae_decoder") == "fp32"
