"""coremltools, imported without its messages, and the lowerings that it lacks or that half precision needs.

coremltools reports every optional package that is missing, and shows progress bars. Neither belongs on the terminal
of a build.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from microforge.errors import missing_extra
from microforge.io.quiet import quiet as hushed


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the messages and progress bars of coremltools. Errors are exceptions and pass."""
    with hushed("coremltools", "torch.utils._pytree"), contextlib.redirect_stderr(io.StringIO()):
        yield


try:
    with quiet():
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.frontend.torch.ops import _get_inputs, noop
        from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op
except ImportError:
    raise missing_extra("coremltools", "export") from None

__all__ = ["ct", "quiet"]


def rms_norm(context: Any, node: Any) -> None:
    """``x / sqrt(mean(x^2) + eps) * weight`` (arXiv 1910.07467), computed in fp32 by the keep-list.

    The lowering of coremltools divides by the largest magnitude first, which keeps squares in fp16 but gives NaN for
    a vector of zeros.
    """
    x, shape, weight, epsilon = _get_inputs(context, node, expected=4)
    axes = list(range(-len(shape.val), 0))
    power = mb.reduce_mean(x=mb.square(x=x), axes=axes, keep_dims=True)
    small = 1e-5 if epsilon is None else epsilon.val
    result = mb.mul(x=x, y=mb.rsqrt(x=power, epsilon=small))
    context.add(result if weight is None else mb.mul(x=result, y=weight), node.name)


register_torch_op(noop, torch_alias=["alias"], override=True)  # coremltools 9.0 has alias_copy only
register_torch_op(rms_norm, override=True)
