"""Every operator of the interpreter against torch, by MIL's parameter names; none is left out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from torch import Tensor

from microforge.errors import BundleError
from microforge_runtimes.mil.elementwise import OPERATORS


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


X, Y, POSITIVE = _normal(2, 3, 4, 5), _normal(2, 3, 4, 5, seed=1), _normal(2, 3, 4, 5, seed=2).abs() + 0.1
BITS, OTHER_BITS = X > 0, Y > 0
IMAGE, KERNEL = _normal(2, 4, 7, 6), _normal(6, 2, 3, 2, seed=3)
QUERY, KEYS, VALUES = (_normal(2, 3, side, 8, seed=side) for side in (4, 5, 6))
VALUES = _normal(2, 3, 5, 8, seed=7)

#: (operator, MIL parameters, what torch says). Several rows where parameters change the meaning.
Case = tuple[str, dict[str, Any], Callable[[], Any]]
CASES: list[Case] = [
    ("abs", {"x": X}, lambda: X.abs()),
    ("add", {"x": X, "y": Y[:, :1]}, lambda: X + Y[:, :1]),
    ("batch_norm", {"x": X, "mean": Y[0, :, 0, 0], "variance": POSITIVE[0, :, 0, 0], "gamma": Y[1, :, 0, 0], "beta": X[0, :, 1, 0], "epsilon": 1e-3},
     lambda: F.batch_norm(X, Y[0, :, 0, 0], POSITIVE[0, :, 0, 0], Y[1, :, 0, 0], X[0, :, 1, 0], eps=1e-3)),
    ("cast", {"x": X, "dtype": "fp32"}, lambda: X),
    ("ceil", {"x": X}, lambda: X.ceil()),
    ("clip", {"x": X, "alpha": -0.5, "beta": 0.7}, lambda: X.clamp(-0.5, 0.7)),
    ("concat", {"values": (X, Y), "axis": 1}, lambda: torch.cat([X, Y], 1)),
    ("concat", {"values": (X, Y), "axis": -3, "interleave": True}, lambda: torch.stack([X, Y], 2).flatten(1, 2)),
    ("constexpr_cast", {"source_val": X, "output_dtype": "fp32"}, lambda: X),
    ("conv", {"x": IMAGE, "weight": KERNEL, "groups": 2}, lambda: F.conv2d(IMAGE, KERNEL, groups=2)),
    ("conv", {"x": IMAGE, "weight": KERNEL, "bias": _normal(6), "groups": 2, "strides": _ints(2, 1), "dilations": _ints(1, 2), "pad_type": "custom", "pad": _ints(1, 1, 2, 2)},
     lambda: F.conv2d(IMAGE, KERNEL, _normal(6), (2, 1), (1, 2), (1, 2), 2)),
    ("conv", {"x": IMAGE, "weight": KERNEL[:4, :1], "groups": 4, "pad_type": "custom", "pad": _ints(1, 0, 2, 0)},
     lambda: F.conv2d(F.pad(IMAGE, (2, 0, 1, 0)), KERNEL[:4, :1], groups=4)),
    ("conv", {"x": IMAGE[0], "weight": _normal(5, 7, 3)}, lambda: F.conv1d(IMAGE[0], _normal(5, 7, 3))),
    ("conv_transpose", {"x": IMAGE, "weight": KERNEL[:4], "groups": 2, "strides": _ints(2, 1)},
     lambda: F.conv_transpose2d(IMAGE, KERNEL[:4], stride=(2, 1), groups=2)),
    ("conv_transpose", {"x": IMAGE, "weight": KERNEL[:4], "bias": _normal(2), "strides": _ints(2, 2), "dilations": _ints(1, 2), "pad_type": "custom", "pad": _ints(1, 1, 0, 0), "output_shape": _ints(2, 2, 14, 14)},
     lambda: F.conv_transpose2d(IMAGE, KERNEL[:4], _normal(2), (2, 2), (1, 0), (1, 1), 1, (1, 2))),
    ("cos", {"x": X}, lambda: X.cos()),
    ("crop", {"x": X, "crop_height": _ints(1, 0), "crop_width": _ints(0, 2)}, lambda: X[..., 1:, :-2]),
    ("cumsum", {"x": X, "axis": -1}, lambda: X.cumsum(-1)),
    ("cumsum", {"x": X, "axis": 1, "exclusive": True, "reverse": True}, lambda: X.flip(1).cumsum(1).flip(1) - X),
    ("einsum", {"values": (X, Y), "equation": "nchw,nkhw->nck"}, lambda: torch.einsum("nchw,nkhw->nck", X, Y)),
    ("elu", {"x": X, "alpha": 0.8}, lambda: F.elu(X, 0.8)),
    ("equal", {"x": X.round(), "y": Y.round()}, lambda: X.round() == Y.round()),
    ("erf", {"x": X}, lambda: X.erf()),
    ("exp", {"x": X}, lambda: X.exp()),
    ("exp2", {"x": X}, lambda: X.exp2()),
    ("expand_dims", {"x": X, "axes": _ints(0, -1)}, lambda: X[None, ..., None]),
    ("fill", {"shape": _ints(2, 3), "value": 1.5}, lambda: torch.full((2, 3), 1.5)),
    ("flatten2d", {"x": X, "axis": 2}, lambda: X.reshape(6, 20)),
    ("floor", {"x": X}, lambda: X.floor()),
    ("floor_div", {"x": X, "y": POSITIVE}, lambda: torch.floor_divide(X, POSITIVE)),
    ("gather", {"x": X, "indices": _ints(2, 0, 2), "axis": 1}, lambda: X[:, [2, 0, 2]]),
    ("gather", {"x": X, "indices": torch.tensor([[2, 0], [1, 1]]), "axis": 1, "batch_dims": 1}, lambda: torch.stack([X[0, [2, 0]], X[1, [1, 1]]])),
    ("gather_along_axis", {"x": X, "indices": X.argsort(2).int(), "axis": 2}, lambda: X.sort(2).values),
    ("gelu", {"x": X}, lambda: F.gelu(X)),
    ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}, lambda: F.gelu(X, approximate="tanh")),
    ("gelu", {"x": X, "mode": "SIGMOID_APPROXIMATION"}, lambda: X * torch.sigmoid(1.702 * X)),
    ("greater", {"x": X, "y": Y}, lambda: X > Y),
    ("greater_equal", {"x": X, "y": Y}, lambda: X >= Y),
    ("identity", {"x": X}, lambda: X),
    ("instance_norm", {"x": X, "gamma": Y[0, :, 0, 0], "beta": Y[1, :, 0, 0], "epsilon": 1e-3}, lambda: F.instance_norm(X, weight=Y[0, :, 0, 0], bias=Y[1, :, 0, 0], eps=1e-3)),
    ("inverse", {"x": POSITIVE, "epsilon": 1e-4}, lambda: 1 / (POSITIVE + 1e-4)),
    ("layer_norm", {"x": X, "axes": _ints(-2, -1), "gamma": Y[0, 0], "beta": Y[0, 1], "epsilon": 1e-3}, lambda: F.layer_norm(X, (4, 5), Y[0, 0], Y[0, 1], 1e-3)),
    ("layer_norm", {"x": X, "axes": _ints(-1)}, lambda: F.layer_norm(X, (5,))),
    ("leaky_relu", {"x": X, "alpha": 0.2}, lambda: F.leaky_relu(X, 0.2)),
    ("less", {"x": X, "y": Y}, lambda: X < Y),
    ("less_equal", {"x": X, "y": Y}, lambda: X <= Y),
    ("linear", {"x": X, "weight": _normal(7, 5), "bias": _normal(7, seed=9)}, lambda: F.linear(X, _normal(7, 5), _normal(7, seed=9))),
    ("linear_activation", {"x": X, "alpha": 2.0, "beta": 0.5}, lambda: 2 * X + 0.5),
    ("log", {"x": POSITIVE, "epsilon": 0.0}, lambda: POSITIVE.log()),
    ("logical_and", {"x": BITS, "y": OTHER_BITS}, lambda: BITS & OTHER_BITS),
    ("logical_not", {"x": BITS}, lambda: ~BITS),
    ("logical_or", {"x": BITS, "y": OTHER_BITS}, lambda: BITS | OTHER_BITS),
    ("logical_xor", {"x": BITS, "y": OTHER_BITS}, lambda: BITS ^ OTHER_BITS),
    ("matmul", {"x": X, "y": Y, "transpose_y": True}, lambda: X @ Y.mT),
    ("matmul", {"x": X, "y": Y, "transpose_x": True}, lambda: X.mT @ Y),
    ("maximum", {"x": X, "y": Y}, lambda: torch.maximum(X, Y)),
    ("minimum", {"x": X, "y": Y}, lambda: torch.minimum(X, Y)),
    ("mod", {"x": X, "y": POSITIVE}, lambda: torch.remainder(X, POSITIVE)),
    ("mul", {"x": X, "y": Y}, lambda: X * Y),
    ("not_equal", {"x": X.round(), "y": Y.round()}, lambda: X.round() != Y.round()),
    ("pad", {"x": X, "pad": _ints(1, 2, 0, 3), "constant_val": 0.5}, lambda: F.pad(X, (0, 3, 1, 2), value=0.5)),
    ("pad", {"x": X, "pad": _ints(1, 2, 0, 3), "mode": "reflect"}, lambda: F.pad(X, (0, 3, 1, 2), "reflect")),
    ("pad", {"x": X, "pad": _ints(1, 2, 0, 3), "mode": "replicate"}, lambda: F.pad(X, (0, 3, 1, 2), "replicate")),
    ("pixel_shuffle", {"x": _normal(2, 12, 3, 4), "upscale_factor": 2}, lambda: F.pixel_shuffle(_normal(2, 12, 3, 4), 2)),
    ("pixel_unshuffle", {"x": _normal(2, 3, 6, 9), "downscale_factor": 3}, lambda: F.pixel_unshuffle(_normal(2, 3, 6, 9), 3)),
    ("pow", {"x": POSITIVE, "y": Y}, lambda: POSITIVE**Y),
    ("prelu", {"x": X, "alpha": POSITIVE[0, :, 0, 0]}, lambda: F.prelu(X, POSITIVE[0, :, 0, 0])),
    ("range_1d", {"start": torch.tensor(1.0), "end": torch.tensor(6.0), "step": torch.tensor(2.0)}, lambda: torch.arange(1.0, 6.0, 2.0)),
    ("real_div", {"x": X, "y": POSITIVE}, lambda: X / POSITIVE),
    ("reduce_argmax", {"x": X, "axis": 1, "keep_dims": True, "output_dtype": "int32"}, lambda: X.argmax(1, keepdim=True)),
    ("reduce_argmin", {"x": X, "axis": -1}, lambda: X.argmin(-1)),
    ("reduce_l1_norm", {"x": X, "axes": _ints(1)}, lambda: X.norm(1, 1)),
    ("reduce_l2_norm", {"x": X, "axes": _ints(1), "keep_dims": True}, lambda: X.norm(2, 1, keepdim=True)),
    ("reduce_log_sum_exp", {"x": X, "axes": _ints(1, 3), "keep_dims": True}, lambda: X.logsumexp((1, 3), keepdim=True)),
    ("reduce_log_sum_exp", {"x": X}, lambda: X.logsumexp((0, 1, 2, 3))),
    ("reduce_max", {"x": X, "axes": _ints(1)}, lambda: X.amax(1)),
    ("reduce_mean", {"x": X, "axes": _ints(1, -1), "keep_dims": True}, lambda: X.mean((1, -1), keepdim=True)),
    ("reduce_min", {"x": X, "axes": _ints(1)}, lambda: X.amin(1)),
    ("reduce_prod", {"x": X, "axes": _ints(3)}, lambda: X.prod(3)),
    ("reduce_sum", {"x": X}, lambda: X.sum()),
    ("reduce_sum_square", {"x": X, "axes": _ints(2)}, lambda: X.square().sum(2)),
    ("relu", {"x": X}, lambda: X.relu()),
    ("relu6", {"x": 5 * X}, lambda: F.relu6(5 * X)),
    ("reshape", {"x": X, "shape": _ints(0, -1, 10, 1)}, lambda: X.reshape(2, 6, 10, 1)),
    ("reshape", {"x": X, "shape": _ints(0, -1, 10)}, lambda: X.reshape(3, 4, 10)),  # from the right, as of iOS 17
    ("reshape", {"x": X[0, 0], "shape": _ints(1, 0, -1, 0)}, lambda: X[0, 0].reshape(1, 1, 4, 5)),
    ("reverse", {"x": X, "axes": _ints(1, -1)}, lambda: X.flip(1, -1)),
    ("round", {"x": torch.tensor([0.5, 1.5, -0.5, 2.4])}, lambda: torch.tensor([0.5, 1.5, -0.5, 2.4]).round()),
    ("rsqrt", {"x": POSITIVE, "epsilon": 0.01}, lambda: (POSITIVE + 0.01).rsqrt()),
    ("scaled_dot_product_attention", {"query": QUERY, "key": KEYS, "value": VALUES}, lambda: F.scaled_dot_product_attention(QUERY, KEYS, VALUES)),
    ("scaled_dot_product_attention", {"query": QUERY, "key": KEYS, "value": VALUES, "attn_mask": _normal(4, 5)}, lambda: F.scaled_dot_product_attention(QUERY, KEYS, VALUES, _normal(4, 5))),
    ("scaled_dot_product_attention", {"query": QUERY, "key": KEYS, "value": VALUES, "attn_mask": torch.ones(4, 5).tril(1).bool()},
     lambda: F.scaled_dot_product_attention(QUERY, KEYS, VALUES, torch.ones(4, 5).tril(1).bool())),
    ("select", {"cond": BITS, "a": X, "b": Y}, lambda: torch.where(BITS, X, Y)),
    ("sigmoid", {"x": X}, lambda: X.sigmoid()),
    ("sigmoid_hard", {"x": 3 * X, "alpha": 1 / 6, "beta": 0.5}, lambda: F.hardsigmoid(3 * X)),
    ("sign", {"x": X}, lambda: X.sign()),
    ("silu", {"x": X}, lambda: F.silu(X)),
    ("sin", {"x": X}, lambda: X.sin()),
    ("slice_by_index", {"x": X, "begin": _ints(0, -2, 3, 1), "end": _ints(0, 9, 0, -1), "stride": _ints(1, 1, 1, 2), "begin_mask": torch.tensor([False, False, True, False]), "end_mask": torch.tensor([True, True, True, False]), "squeeze_mask": torch.tensor([False, True, False, False])},
     lambda: X[:, -2, :, 1:-1:2]),
    ("slice_by_size", {"x": X, "begin": _ints(0, 1, 0, 2), "size": _ints(1, 2, -1, 3)}, lambda: X[:1, 1:3, :, 2:5]),
    ("softmax", {"x": X, "axis": 1}, lambda: X.softmax(1)),
    ("softplus", {"x": X}, lambda: F.softplus(X)),
    ("softsign", {"x": X}, lambda: F.softsign(X)),
    ("split", {"x": X, "axis": 2, "num_splits": 2}, lambda: torch.tensor_split(X, 2, 2)),
    ("split", {"x": X, "axis": -1, "split_sizes": _ints(1, 3, 1)}, lambda: torch.tensor_split(X, [1, 4], -1)),
    ("sqrt", {"x": POSITIVE}, lambda: POSITIVE.sqrt()),
    ("square", {"x": X}, lambda: X.square()),
    ("squeeze", {"x": X[:1, :, :1], "axes": _ints(0, 2)}, lambda: X[0, :, 0]),
    ("stack", {"values": (X, Y), "axis": -1}, lambda: torch.stack([X, Y], -1)),
    ("sub", {"x": X, "y": Y}, lambda: X - Y),
    ("tan", {"x": X}, lambda: X.tan()),
    ("tanh", {"x": X}, lambda: X.tanh()),
    ("threshold", {"x": X, "alpha": 0.3}, lambda: X.clamp(min=0.3)),
    ("tile", {"x": X, "reps": _ints(1, 2, 1, 3)}, lambda: X.repeat(1, 2, 1, 3)),
    ("transpose", {"x": X, "perm": _ints(0, -1, 1, 2)}, lambda: X.permute(0, -1, 1, 2)),
    ("upsample_nearest_neighbor", {"x": X, "scale_factor_height": 2, "scale_factor_width": 3.0}, lambda: X.repeat_interleave(2, 2).repeat_interleave(3, 3)),
]  # fmt: skip

#: These are compared with coremltools' own decompression, in test_mil_interpreter.
DECOMPRESSED = {
    "constexpr_affine_dequantize", "constexpr_blockwise_shift_scale", "constexpr_lut_to_dense",
    "constexpr_sparse_to_dense",
}  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value.numpy() if isinstance(value, Tensor) else value


@pytest.mark.parametrize(("name", "parameters", "expected"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])  # fmt: skip
def test_operator_gives_what_torch_gives(
    name: str, parameters: dict[str, Any], expected: Callable[[], Any]
) -> None:
    found = OPERATORS[name](**{key: _plain(value) for key, value in parameters.items()})
    wanted = expected()
    pairs = zip(found, wanted, strict=True) if isinstance(found, tuple) else [(found, wanted)]
    for ours, theirs in pairs:
        assert ours.shape == tuple(theirs.shape)
        assert_allclose(ours, theirs.numpy(), rtol=2e-5, atol=1e-5)


def test_every_operator_is_tested() -> None:
    assert {case[0] for case in CASES} | DECOMPRESSED == set(OPERATORS)


def test_operators_name_their_parameters() -> None:
    """The interpreter refuses unknown parameters by these names, so none may take just anything."""
    for operator in OPERATORS.values():
        kinds = {item.kind for item in inspect.signature(operator).parameters.values()}
        assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_float_operators_stay_in_float32() -> None:
    for name in ("add", "conv", "gelu", "layer_norm", "matmul", "reduce_mean", "rsqrt", "silu", "softmax"):
        parameters = next(case[1] for case in CASES if case[0] == name)
        result = OPERATORS[name](**{key: _plain(value) for key, value in parameters.items()})
        assert isinstance(result, np.ndarray) and result.dtype == np.float32, name


@pytest.mark.parametrize(
    ("name", "parameters", "word"),
    [
        ("conv", {"x": IMAGE, "weight": KERNEL, "pad_type": "same"}, "same"),
        ("gelu", {"x": X, "mode": "QUICK"}, "QUICK"),
        ("pad", {"x": X, "pad": _ints(1, 1), "mode": "circular"}, "circular"),
        ("upsample_nearest_neighbor", {"x": X, "scale_factor_height": 1.5}, "whole"),
    ],
)
def test_modes_that_are_not_known_are_refused(name: str, parameters: dict[str, Any], word: str) -> None:
    with pytest.raises(BundleError, match=word):
        OPERATORS[name](**{key: _plain(value) for key, value in parameters.items()})


@pytest.mark.parametrize("index", [-1, 3])
def test_gather_refuses_an_index_that_a_device_may_answer_as_it_likes(index: int) -> None:
    with pytest.raises(ValueError, match=r"0 \.\.\. 2"):
        OPERATORS["gather"](x=_plain(X), indices=np.array([0, index]), axis=1)
