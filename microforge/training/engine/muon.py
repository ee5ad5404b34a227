"""Muon for networks of many small matrices: matrices of one shape are orthogonalised in one batch.

``torch.optim.Muon`` processes one matrix at a time. With many small matrices that is thousands of kernels a step, and a GPU
waits longer for them than it trains. The update rule and the state are the same.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor


class BatchedMuon(torch.optim.Muon):
    """``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"``, batched over matrices of one shape."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override] # returns no loss
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                updates = orthogonalised(self._directions(group, parameters), group)  # (M, rows, columns)
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(updates.to(parameters[0].dtype).unbind()), alpha=-rate)

    def _directions(self, group: dict[str, Any], parameters: list[Tensor]) -> Tensor:
        """Update the momentum of ``parameters`` and return their directions (M, rows, columns)."""
        gradients: list[Tensor] = []
        buffers: list[Tensor] = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            assert parameter.grad is not None
            gradients.append(parameter.grad)
            buffers.append(state["momentum_buffer"])
        torch._foreach_lerp_(buffers, gradients, 1.0 - group["momentum"])
        if not group["nesterov"]:
            return torch.stack(buffers)
        return torch.stack(gradients).lerp(torch.stack(buffers), group["momentum"])


def orthogonalised(matrices: Tensor, group: dict[str, Any]) -> Tensor:
    """``matrices`` (M, rows, columns) with all singular values moved near 1, in bfloat16.

    Quintic Newton-Schulz iteration (Jordan et al., 2024) with the coefficients of the parameter group.
    """
    a, b, c = group["ns_coefficients"]
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.transpose(1, 2) if tall else matrices).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x
