"""The mixed-precision keep-list of Core ML: which operators of an fp16 program stay in fp32, and why.

An operator stays in fp32 if it is a *root*, which magnifies the error of its input, or a *carrier* all of whose
results are read by operators in fp32. Carriers are the cheap operators that prepare the input of a root, so that it
is never rounded on the way. Learned layers, attention and activations are neither: they run in fp16 and end the
part of the graph that stays in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Operators whose input must not be rounded to fp16, and why.
ROOTS: Mapping[str, str] = {
    "rsqrt": "the mean square of a norm exceeds 65504 when activations exceed 256, and 1e-6 is subnormal in fp16",
    "sqrt": "as rsqrt",
    "exp": "an error in an SSM's prefix sums becomes a relative error of the decay: 0.8 % for sums near 16",
    "sin": "the angles of time features reach 1000, where fp16 steps by half a radian",
    "cos": "as sin",
    "log": "the inverse of exp",
}

#: Operators that stay in fp32 if all of their results are read in fp32. ``linear`` is listed for the constant scan
#: order of the SSM; a learned layer is never read in fp32 alone, since an activation or a residual follows it.
CARRIERS = frozenset({
    "abs", "add", "clip", "concat", "expand_dims", "linear", "maximum", "minimum", "mul", "pow", "real_div",
    "reduce_max", "reduce_mean", "reduce_sum", "reduce_sum_square", "reshape", "slice_by_index", "square", "squeeze",
    "sub", "transpose",
})  # fmt: skip

#: Carriers whose own operands may be in fp16. The SSM's sums over all tokens are normalised and may exceed 65504, but
#: the matrices that they are computed from stay in range.
EDGES = frozenset({"matmul"})


def runs_in_fp16(operation: Any) -> bool:
    """Whether a MIL operation may run in fp16; the ``op_selector`` of coremltools."""
    return not _stays_in_fp32(operation)


def _stays_in_fp32(operation: Any) -> bool:
    if operation.op_type in ROOTS or _normalizes(operation):
        return True
    if operation.op_type not in CARRIERS | EDGES:
        return False
    consumers = [consumer for result in operation.outputs for consumer in result.child_ops]
    is_output = any(result in operation.enclosing_block.outputs for result in operation.outputs)
    return bool(consumers) and not is_output and all(map(_needs_fp32_operands, consumers))


def _needs_fp32_operands(consumer: Any) -> bool:
    return consumer.op_type not in EDGES and _stays_in_fp32(consumer)


def _normalizes(operation: Any) -> bool:
    """Whether this is the product ``x * rsqrt(...)`` of a norm, whose x may exceed 65504."""
    if operation.op_type not in ("mul", "real_div"):
        return False
    producers = [operand.op for operand in (operation.x, operation.y)]
    return any(producer is not None and producer.op_type in ("rsqrt", "sqrt") for producer in producers)
