"""INT8 recipes: schemes are resolved for the operator groups of a model, and unknown ones are refused."""

from __future__ import annotations

import pytest

from microforge.errors import SpecError
from microforge_export.recipes.int8_recipe import (
    Host,
    Int8Recipe,
    Scheme,
    component_precision,
    relaxed,
    resolve,
    role_schemes,
)

GROUPS: dict[str, tuple[Scheme, ...]] = {
    "conv a": ("weight-only", "static"), "matmul b": ("weight-only", "dynamic", "static"), "gather c": ("weight-only",),
}  # fmt: skip


def test_constants_that_a_graph_no_longer_has_are_passed_over() -> None:
    assert resolve({"matmul other": "weight-only", "matmul b": "dynamic"}, GROUPS, "onnx") == resolve(
        {"matmul b": "dynamic"}, GROUPS, "onnx"
    )


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


def test_relaxed_goes_step_by_step_to_floating_point() -> None:
    steps: list[Scheme] = ["static"]
    while steps[-1] != "fp32":
        steps.append(relaxed(steps[-1], GROUPS["conv a"], "onnx"))
    assert steps == ["static", "weight-only", "fp32"]


def test_a_component_takes_the_schemes_of_the_one_whose_weights_it_has() -> None:
    host = Host(machine="x86_64", instructions=(), threads=1)
    schemes: dict[str, dict[str, Scheme]] = {"denoiser": {"conv decoder": "static"}}
    recipe = Int8Recipe(model="nano", target="onnx", host=host, schemes=schemes)
    assert role_schemes(recipe, "denoiser_edit", "denoiser") == {"conv decoder": "static"}
    assert component_precision(recipe, "denoiser_edit", "denoiser") == "int8"
    assert component_precision(recipe, "vae_decoder") == "fp32"
