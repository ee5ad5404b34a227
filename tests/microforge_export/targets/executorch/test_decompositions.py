"""Decompositions for XNNPACK: they compute what torch computes, and what XNNPACK refuses is gone."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microforge_export.targets.executorch.decompositions import simplify
from microforge_export.targets.executorch.delegation import operators

REFUSED = {
    "aten.mean.dim", "aten.sum.dim_IntList", "aten.layer_norm.default", "aten.rms_norm.default",
    "aten.unsqueeze.default", "aten.squeeze.dim", "aten.select.int", "aten.unbind.int", "aten.expand.default",
    "aten.matmul.default", "aten.new_zeros.default", "aten.full.default", "aten.arange.default",
    "aten.alias.default",
}  # fmt: skip

FORMS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "mean of the last axis": (lambda x: x.mean(-1), (2, 3, 8)),
    "mean of channels": (lambda x: x.mean(1, keepdim=True), (1, 8, 4, 6)),
    "mean of groups": (lambda x: x.mean(2), (1, 3, 4, 5, 6)),
    "mean of two axes": (lambda x: x.mean((1, 2), keepdim=True), (1, 3, 4, 5)),
    "mean of everything": (lambda x: x.mean((0, 1)), (3, 4)),
    "sum of a middle axis": (lambda x: x.sum(1), (1, 5, 4)),
    "layer norm": (lambda x: F.layer_norm(x, (8,), eps=1e-6), (1, 3, 8)),
    "layer norm with weights": (
        lambda x: F.layer_norm(x, (8,), torch.arange(8.0), torch.ones(8)), (1, 3, 8),
    ),
    "rms norm": (lambda x: F.rms_norm(x, (8,), torch.arange(8.0), 1e-6), (1, 3, 8)),
    "axes of length one": (lambda x: x.unsqueeze(1).unsqueeze(-1).squeeze(-1).squeeze(1) * 2, (1, 3, 8)),
    "select": (lambda x: x[:, 1] + x[:, -1], (1, 3, 8)),
    "unbind": (lambda x: x.unbind(1)[0] * x.unbind(1)[2], (1, 3, 8)),
    "expand": (lambda x: x.unsqueeze(2).expand(1, 3, 4, 8).reshape(1, 12, 8) + 1, (1, 3, 8)),
    "expand of nothing": (lambda x: x.expand(1, 3, -1) + 1, (1, 3, 8)),
    "expand to more axes": (lambda x: x.expand(2, 3, 8) + 1, (8,)),
    "matmul with a matrix": (lambda x: x @ torch.arange(16.0).reshape(8, 2), (1, 3, 8)),
    "matmul of batches": (lambda x: x @ x.transpose(-1, -2), (1, 2, 3, 8)),
    "matmul that broadcasts": (lambda x: x[:, :1] @ x.transpose(-1, -2), (1, 2, 3, 8)),
    "matmul with a vector": (lambda x: x @ torch.arange(8.0), (1, 3, 8)),
    "matmul of a vector": (lambda x: torch.arange(3.0) @ x, (1, 3, 8)),
    "gelu": (F.gelu, (1, 3, 8)),
    "gelu by tanh": (lambda x: F.gelu(3 * x, approximate="tanh"), (1, 3, 8)),
    "constants": (lambda x: x + torch.exp(torch.arange(8.0) / 8) + x.new_zeros(8), (1, 3, 8)),
}  # fmt: skip


class Form(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_keeps_its_result_and_loses_what_is_refused(name: str) -> None:
    function, shape = FORMS[name]
    torch.manual_seed(0)
    x = torch.randn(shape)
    program = torch.export.export(Form(function), (torch.ones(shape),), strict=False)
    before = [node.name for node in program.graph.nodes]
    simple = simplify(program)
    assert not REFUSED & set(operators(simple.graph))
    torch.testing.assert_close(simple.module()(x), function(x), rtol=1e-5, atol=1e-5)
    assert [node.name for node in program.graph.nodes] == before
    torch.testing.assert_close(program.module()(x), function(x))


def test_gelu_by_tanh_is_spelled_out_and_the_exact_form_stays() -> None:
    # XNNPACK's delegate computes the exact form for both, which differs by up to 5e-4.
    for form, stays in (("tanh", False), ("none", True)):
        function = functools.partial(F.gelu, approximate=form)
        program = torch.export.export(Form(function), (torch.ones(8),), strict=False)
        targets = {node.target for node in simplify(program).graph.nodes}
        assert (torch.ops.aten.gelu.default in targets) == stays


def test_simplify_leaves_the_constants_of_its_argument() -> None:
    program = torch.export.export(
        Form(lambda x: x * torch.tensor([1.0, 2.0]).exp()), (torch.ones(2),), strict=False
    )
    constants, weights = dict(program.constants), dict(program.state_dict)
    simplify(program)
    assert program.constants.keys() == constants.keys() and program.state_dict.keys() == weights.keys()
