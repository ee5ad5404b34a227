"""Binds the inputs of a component: the manifest's expressions to arrays, and the inputs of one guidance branch.

Nothing here knows a tensor by name; the names are the manifest's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from microforge.bundle.consistency import parts_of
from microforge.bundle.inputs import Bindings, Concat, Expression, Part
from microforge.bundle.manifest import Component, TensorSpec
from microforge.bundle.sampling import State
from microforge.tokenizer import TokenIds
from microforge_runtimes.arrays import Array
from microforge_runtimes.engines.session import Session
from microforge_runtimes.sampler import Floats


@dataclass(frozen=True)
class Context:
    """What expressions read: the encodings of one prompt, the user's image and numbers, and the current evaluation.

    ``tokens`` by tokenizer; ``encoded`` by encoder and output; ``image`` (1, 3, H, W); ``mask`` (1, 1, h, w);
    ``latent`` (1, C, h, w).
    """

    tokens: Mapping[str, TokenIds] = field(default_factory=dict)
    encoded: Mapping[tuple[str, str], Array] = field(default_factory=dict)
    image: Floats | None = None
    mask: Floats | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    latent: Floats | None = None
    time: float = 0.0


def bound_input(spec: TensorSpec, expression: Expression | None, context: Context) -> Array:
    """The array of one input, in its shape and type; its default where ``expression`` is None."""
    if expression is None:
        value = np.zeros(spec.shape) if spec.default in (None, "zeros") else _filled(spec.default, spec.shape)
    elif isinstance(expression, Concat):
        head, tail = spec.shape[: expression.axis], spec.shape[expression.axis + 1 :]
        parts = [_part(item.part, (*head, item.length, *tail), context) for item in expression.parts]
        value = np.concatenate(parts, expression.axis)
    else:
        value = _part(expression, spec.shape, context)
    return value.astype(spec.dtype, copy=False)


def bound_inputs(component: Component, bindings: Bindings, context: Context) -> dict[str, Array]:
    """All inputs of a component, by name."""
    return {spec.name: bound_input(spec, bindings.get(spec.name), context) for spec in component.inputs}


def _part(part: Part, shape: tuple[int, ...], context: Context) -> Array:
    match part.kind:
        case "latent" if context.latent is not None:
            return context.latent
        case "time":
            return np.full(shape, context.time)
        case "tokens":
            return context.tokens[part.tokenizer].ids[None]
        case "token_mask":
            return context.tokens[part.tokenizer].mask[None]
        case "encoded":
            return context.encoded[part.encoder, part.output]
        case "image" if context.image is not None:
            return context.image
        case "latent_mask":
            return np.ones(shape) if context.mask is None else context.mask
        case "zeros":
            return np.zeros(shape)
        case "values":
            return _filled(part.values, shape)
        case "parameter":
            return np.full(shape, context.parameters[part.parameter])
    raise LookupError(f"an input comes from {part.kind!r}, which is not there")


def _filled(values: object, shape: tuple[int, ...]) -> Array:
    numbers = np.asarray(values, np.float64)
    return np.full(shape, numbers[0]) if numbers.size == 1 else numbers.reshape(shape)


class Branch:
    """One guidance branch of a loaded network: its bound inputs, and a state of its own that goes from step to step."""

    def __init__(
        self, session: Session, component: Component, bindings: Bindings, output: str, states: Sequence[State],
        context: Context,
    ) -> None:  # fmt: skip
        """Bind everything that stays the same from step to step; states start at zero."""
        self._session, self._output, self._context = session, output, context
        self._states = [state for state in states if component.input(state.input) is not None]
        carried = {name for state in self._states for name in (state.input, state.flag)}
        self._changing: list[tuple[TensorSpec, Expression]] = []
        self._inputs: dict[str, Array] = {}
        for spec in component.inputs:
            expression = None if spec.name in carried else bindings.get(spec.name)
            if expression is not None and any(
                item.kind in ("latent", "time") for item in parts_of(expression)
            ):
                self._changing.append((spec, expression))
            else:
                self._inputs[spec.name] = bound_input(spec, expression, context)

    def evaluate(self, latent: Floats, time: float) -> Floats:
        """The network's output at ``latent`` (1, C, h, w) and ``time``; the state moves on."""
        now = replace(self._context, latent=latent, time=time)
        values = {spec.name: bound_input(spec, expression, now) for spec, expression in self._changing}
        outputs = self._session.run({**self._inputs, **values})
        for state in self._states:
            self._inputs[state.input] = outputs[state.output]
            if state.flag is not None:
                self._inputs[state.flag] = np.ones_like(self._inputs[state.flag])
        return outputs[self._output]

    def states(self) -> dict[str, Floats]:
        """What the next evaluation gets, by input name."""
        return {state.input: self._inputs[state.input] for state in self._states}
