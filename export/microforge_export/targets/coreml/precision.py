"""Which operators of a half-precision Core ML program stay in float32, by one rule with its reasons.

An operator is part of a float32 island when it is a *root*, or a *carrier* whose every consumer is in an
island. Roots magnify the error of their input; carriers are the cheap operators that prepare that input, so
that it is never rounded on the way. Learned layers, attention and activations are neither, so an island ends
at them and the rest of the network runs in half precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Operators whose input must not be rounded to half precision, and why.
ROOTS: Mapping[str, str] = {
    "rsqrt": "the mean square of a norm passes 65504 when activations pass 256, and 1e-6 is subnormal in fp16",
    "sqrt": "as rsqrt",
    "exp": "an error in an SSM's prefix sums becomes a relative error of the decay: 0.8 % for sums near 16",
    "sin": "the angles of time features reach 1000, where fp16 steps by half a radian",
    "cos": "as sin",
    "log": "the same, turned round",
}

#: Operators that belong to an island when all of their results go into one. ``linear`` is here for the SSM's
#: constant scan order; a learned layer never feeds an island alone, an activation or a residual follows it.
CARRIERS = frozenset({
    "abs", "add", "clip", "concat", "expand_dims", "linear", "maximum", "minimum", "mul", "pow", "real_div",
    "reduce_max", "reduce_mean", "reduce_sum", "reduce_sum_square", "reshape", "slice_by_index", "square", "squeeze",
    "sub", "transpose",
})  # fmt: skip

#: Where an island that would go on starts: the product itself is in it, what it multiplies is not. An SSM's sums
#: over all tokens go to a norm and may pass 65504; the matrices that they come from stay in range.
EDGES = frozenset({"matmul"})


def in_half(operation: Any) -> bool:
    """True when a MIL operation may run in half precision: coremltools' ``op_selector``."""
    return not _in_island(operation)


def _in_island(operation: Any) -> bool:
    if operation.op_type in ROOTS or _normalizes(operation):
        return True
    if operation.op_type not in CARRIERS | EDGES:
        return False
    consumers = [consumer for result in operation.outputs for consumer in result.child_ops]
    is_output = any(result in operation.enclosing_block.outputs for result in operation.outputs)
    return bool(consumers) and not is_output and all(map(_draws_in, consumers))


def _draws_in(consumer: Any) -> bool:
    """True when a consumer needs its operands unrounded."""
    return consumer.op_type not in EDGES and _in_island(consumer)


def _normalizes(operation: Any) -> bool:
    """True for a norm's product ``x * rsqrt(...)``: what only a norm reads may pass 65504 before it."""
    if operation.op_type not in ("mul", "real_div"):
        return False
    makers = [operand.op for operand in (operation.x, operation.y)]
    return any(maker is not None and maker.op_type in ("rsqrt", "sqrt") for maker in makers)
