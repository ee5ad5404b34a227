"""MIL's element-wise operators and the registry of all operators, in numpy.

An operator takes its parameters by MIL's own names (Core ML Tools, MIL ops): arrays, strings, and tuples of
arrays where MIL takes lists. Floats arrive as float32, whatever their declared type, and are computed in
float32; the interpreter rounds results to their declared type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from microforge.errors import BundleError
from microforge_runtimes.arrays import Array
from microforge_runtimes.mil import compressed_weights, layers, shapes

_erf = np.frompyfunc(math.erf, 1, 1)  # numpy has none


def erf(x: Array) -> Array:
    return np.asarray(_erf(x)).astype(np.float32)


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def gelu(x: Array, mode: str = "EXACT") -> Array:
    if mode == "EXACT":
        return 0.5 * x * (1.0 + erf(x * np.float32(math.sqrt(0.5))))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1.0 + np.tanh(np.float32(math.sqrt(2.0 / math.pi)) * (x + 0.044715 * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * sigmoid(1.702 * x)
    raise BundleError(f"gelu has the mode {mode!r}, which the interpreter does not know")


def _activations() -> dict[str, Callable[..., Array]]:
    return {
        "clip": lambda x, alpha, beta: np.clip(x, alpha, beta),
        "elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        "gelu": gelu,
        "leaky_relu": lambda x, alpha=0.01: np.where(x > 0, x, alpha * x),
        "linear_activation": lambda x, alpha, beta=0.0: alpha * x + beta,
        "prelu": lambda x, alpha: np.where(x > 0, x, alpha.reshape(-1, *[1] * (x.ndim - 2)) * x),
        "relu": lambda x: np.maximum(x, 0),
        "relu6": lambda x: np.clip(x, 0, 6),
        "sigmoid": sigmoid,
        "sigmoid_hard": lambda x, alpha=0.2, beta=0.5: np.clip(alpha * x + beta, 0, 1),
        "silu": lambda x: x * sigmoid(x),
        "softplus": lambda x: np.logaddexp(x, 0),
        "softsign": lambda x: x / (1.0 + np.abs(x)),
        "tanh": lambda x: np.tanh(x),
        "threshold": lambda x, alpha: np.maximum(x, alpha),
    }


def _unary() -> dict[str, Callable[..., Array]]:
    return {
        "abs": lambda x: np.abs(x),
        "cast": lambda x, dtype: x,  # the interpreter gives a result its declared type
        "ceil": lambda x: np.ceil(x),
        "cos": lambda x: np.cos(x),
        "erf": erf,
        "exp": lambda x: np.exp(x),
        "exp2": lambda x: np.exp2(x),
        "floor": lambda x: np.floor(x),
        "identity": lambda x: x,
        "inverse": lambda x, epsilon=1e-4: 1.0 / (x + epsilon),
        "log": lambda x, epsilon=1e-45: np.log(x + np.float32(epsilon)),
        "logical_not": lambda x: np.logical_not(x),
        "round": lambda x: np.rint(x),
        "rsqrt": lambda x, epsilon=1e-12: 1.0 / np.sqrt(x + np.float32(epsilon)),
        "sign": lambda x: np.sign(x),
        "sin": lambda x: np.sin(x),
        "sqrt": lambda x: np.sqrt(x),
        "square": lambda x: np.square(x),
        "tan": lambda x: np.tan(x),
    }


def _binary() -> dict[str, Callable[..., Array]]:
    return {
        "add": lambda x, y: x + y,
        "equal": lambda x, y: np.equal(x, y),
        "floor_div": lambda x, y: np.floor_divide(x, y),
        "greater": lambda x, y: np.greater(x, y),
        "greater_equal": lambda x, y: np.greater_equal(x, y),
        "less": lambda x, y: np.less(x, y),
        "less_equal": lambda x, y: np.less_equal(x, y),
        "logical_and": lambda x, y: np.logical_and(x, y),
        "logical_or": lambda x, y: np.logical_or(x, y),
        "logical_xor": lambda x, y: np.logical_xor(x, y),
        "maximum": lambda x, y: np.maximum(x, y),
        "minimum": lambda x, y: np.minimum(x, y),
        "mod": lambda x, y: np.mod(x, y),
        "mul": lambda x, y: x * y,
        "not_equal": lambda x, y: np.not_equal(x, y),
        "pow": lambda x, y: np.power(x, y),
        "real_div": lambda x, y: np.divide(x, y),
        "select": lambda cond, a, b: np.where(cond, a, b),
        "sub": lambda x, y: x - y,
    }


#: Every operator that the interpreter knows, but ``const``.
OPERATORS: Mapping[str, Callable[..., Array | tuple[Array, ...]]] = {
    **_activations(), **_unary(), **_binary(), **layers.OPERATORS, **shapes.OPERATORS, **compressed_weights.OPERATORS,
}  # fmt: skip
