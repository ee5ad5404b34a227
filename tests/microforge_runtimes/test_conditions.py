"""Where inputs come from: every kind of expression as an array, and what a branch carries from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from microforge.bundle.inputs import Expression
from microforge.bundle.layout import Component, TensorSpec
from microforge.bundle.sampling import State
from microforge.tokenizer import TokenIds
from microforge_runtimes.arrays import Array
from microforge_runtimes.conditions import Branch, Context, bound_input

TOKENS = TokenIds(np.array([1, 5, 2, 0]), np.array([1, 1, 1, 0], np.float32), truncated=False)
LATENT = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
CONTEXT = Context(
    tokens={"clip": TOKENS}, encoded={("text", "states"): np.full((1, 4), 7.0, np.float32)}, parameters={"class": 3.0},
    image=np.full((1, 3, 4, 4), 0.5, np.float32), mask=np.array([[[[0, 1], [0, 0]]]], np.float32), latent=LATENT, time=0.25,
)  # fmt: skip


def _expression(**values: Any) -> Expression:
    expression: Expression = TypeAdapter(Expression).validate_python(values)
    return expression


def _spec(shape: tuple[int, ...], dtype: str = "float32", **values: Any) -> TensorSpec:
    return TensorSpec.model_validate({"name": "x", "shape": shape, "dtype": dtype, **values})


@pytest.mark.parametrize(
    ("shape", "dtype", "values", "expected"),
    [
        ((1, 2, 2, 2), "float16", {"kind": "latent"}, LATENT),
        ((1,), "float32", {"kind": "time"}, [0.25]),
        ((2, 3), "float32", {"kind": "time"}, np.full((2, 3), 0.25)),
        ((1, 4), "int32", {"kind": "tokens", "tokenizer": "clip"}, [[1, 5, 2, 0]]),
        ((1, 4), "int64", {"kind": "token_mask", "tokenizer": "clip"}, [[1, 1, 1, 0]]),
        ((1, 4), "float32", {"kind": "encoded", "encoder": "text", "output": "states"}, np.full((1, 4), 7.0)),
        ((1, 3, 4, 4), "float32", {"kind": "image"}, np.full((1, 3, 4, 4), 0.5)),
        ((1, 1, 2, 2), "float32", {"kind": "latent_mask"}, [[[[0, 1], [0, 0]]]]),
        ((2, 2), "float32", {"kind": "zeros"}, np.zeros((2, 2))),
        ((2, 2), "float32", {"kind": "values", "values": (1.0, 2.0, 3.0, 4.0)}, [[1, 2], [3, 4]]),
        ((2, 2), "int64", {"kind": "values", "values": (6.0,)}, [[6, 6], [6, 6]]),
        ((1,), "int64", {"kind": "parameter", "parameter": "class"}, [3]),
    ],
)
def test_every_kind_of_expression_is_an_array_of_the_inputs_shape_and_type(
    shape: tuple[int, ...], dtype: str, values: dict[str, Any], expected: Any
) -> None:
    value = bound_input(_spec(shape, dtype), _expression(**values), CONTEXT)
    assert value.shape == shape and value.dtype == dtype
    np.testing.assert_array_equal(value, np.asarray(expected, dtype))


def test_parts_are_concatenated_along_their_axis() -> None:
    """As the nine channels of a diffusion model that was trained to inpaint."""
    parts = (
        {"length": 2, "part": {"kind": "latent"}},
        {"length": 1, "part": {"kind": "latent_mask"}},
        {"length": 1, "part": {"kind": "zeros"}},
    )
    value = bound_input(_spec((1, 4, 2, 2)), _expression(kind="concat", axis=1, parts=parts), CONTEXT)
    np.testing.assert_array_equal(value[:, :2], LATENT)
    np.testing.assert_array_equal(value[0, 2], [[0, 1], [0, 0]])
    assert not value[:, 3].any()


def test_without_a_mask_every_latent_may_change() -> None:
    value = bound_input(_spec((1, 1, 2, 2)), _expression(kind="latent_mask"), Context())
    assert value.all()


@pytest.mark.parametrize(
    ("default", "expected"), [("zeros", [0, 0]), ((1.5,), [1.5, 1.5]), ((1.0, 2.0), [1, 2])]
)
def test_an_input_that_nothing_binds_has_its_default(default: object, expected: list[float]) -> None:
    value = bound_input(_spec((1, 2), default=default), None, Context())
    np.testing.assert_array_equal(value, np.asarray([expected], np.float32))


class _Counter:
    """A network that adds one to what it carries, and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Array]] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.seen.append(dict(inputs))
        return {"out": inputs["u"] * 2, "memory": inputs["carried"] + 1}

    def close(self) -> None:
        """Nothing to free."""


def test_a_state_starts_at_zero_goes_from_step_to_step_and_raises_its_flag() -> None:
    names: dict[str, tuple[int, ...]] = {
        "u": (1, 2, 2, 2),
        "when": (1,),
        "carried": (1, 3),
        "has": (1,),
        "fixed": (1, 1),
    }
    component = Component(
        role="net", size=None,
        inputs=tuple(TensorSpec(name=name, shape=shape, dtype="float32") for name, shape in names.items()),
        outputs=(TensorSpec(name="out", shape=(1, 2, 2, 2), dtype="float32"), TensorSpec(name="memory", shape=(1, 3), dtype="float32")),
    )  # fmt: skip
    bindings = {
        "u": _expression(kind="latent"),
        "when": _expression(kind="time"),
        "fixed": _expression(kind="values", values=(5.0,)),
    }
    session, state = _Counter(), State(output="memory", input="carried", flag="has")
    branch = Branch(session, component, bindings, "out", (state,), Context())
    for time in (1.0, 0.5, 0.25):
        np.testing.assert_array_equal(branch.evaluate(LATENT, time), LATENT * 2)
    assert [call["carried"].tolist() for call in session.seen] == [[[0.0] * 3], [[1.0] * 3], [[2.0] * 3]]
    assert [call["has"].item() for call in session.seen] == [0.0, 1.0, 1.0]
    assert [call["when"].item() for call in session.seen] == [1.0, 0.5, 0.25]
    assert all(call["fixed"].item() == 5.0 for call in session.seen)
    np.testing.assert_array_equal(branch.states()["carried"], np.full((1, 3), 3.0))
