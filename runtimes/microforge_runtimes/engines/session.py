"""A session runs one component of a bundle on one engine; every engine looks the same from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from microforge.bundle.manifest import Component, TensorSpec
from microforge_runtimes.arrays import Array


class Session(Protocol):
    """One loaded network; ``run`` may be called by several threads at once."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate once: the component's inputs by name to its outputs by name.

        Raises:
            ValueError: when a name, shape or dtype is not the component's.
        """
        ...

    def close(self) -> None:
        """Free the network's memory; the session cannot run afterwards. Closing twice is fine."""
        ...


def check_inputs(component: Component, inputs: Mapping[str, Array]) -> None:
    """Refuse inputs that are not exactly what ``component`` declares.

    Raises:
        ValueError: names the tensor, what was given and what is needed.
    """
    expected = {spec.name: spec for spec in component.inputs}
    if set(inputs) != set(expected):
        raise ValueError(f"{component.role} takes {', '.join(expected)}; got {', '.join(inputs)}")
    for name, spec in expected.items():
        given = inputs[name]
        if given.shape != spec.shape or given.dtype != np.dtype(spec.dtype):
            raise ValueError(
                f"{component.role} input {name} is {given.dtype}{list(given.shape)}, "
                f"needed: {spec.dtype}{list(spec.shape)}"
            )


def same_tensors(
    declared: tuple[TensorSpec, ...], found: Mapping[str, tuple[tuple[Any, ...], str]]
) -> str | None:
    """How a graph's tensors (name -> shape, dtype) differ from the declared ones, or None when they agree."""
    expected = {spec.name: (spec.shape, spec.dtype) for spec in declared}
    for name in sorted(set(expected) | set(found)):
        if expected.get(name) != found.get(name):
            return f"tensor {name!r} is {_describe(found.get(name))}, the manifest says {_describe(expected.get(name))}"
    return None


def _describe(tensor: tuple[tuple[Any, ...], str] | None) -> str:
    return "absent" if tensor is None else f"{tensor[1]}{list(tensor[0])}"
