"""Optimizers: AdamW in three parameter groups, optionally Muon for hidden matrices, and the EMA of the weights.

Muon (Jordan et al., 2024) orthogonalises the update of a matrix; scaled to AdamW's step size (arXiv 2502.16982) it shares
learning rate and weight decay with AdamW. It trains hidden matrices only. Embeddings, the first and last projections (whose
rows are not interchangeable features), convolutions, vectors and the SSM's own parameters stay with AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from microforge.errors import SpecError
from microforge.training.engine.muon import BatchedMuon
from microforge.training.settings import OptimizerSettings

#: Parameters of the SSM's decay, B and C: a lower learning rate and no weight decay (SPEC section 4).
SSM_PARTS = ("decay_f", "decay_b", "b_f", "b_b", "c_f", "c_b")
#: Modules between tokens or latents and the hidden width: AdamW always.
EDGES = ("tokens", "patch_in", "latent_in", "head")


class ParameterGroups(NamedTuple):
    """The trained parameters of a network, by group."""

    hidden: list[nn.Parameter]  # for Muon, when it is chosen
    matrix: list[nn.Parameter]
    vector: list[nn.Parameter]
    ssm: list[nn.Parameter]


def group_parameters(network: nn.Module, muon: bool) -> ParameterGroups:
    """Sort the trained parameters of ``network`` into groups; without ``muon``, ``hidden`` stays empty."""
    groups = ParameterGroups([], [], [], [])
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        parts = name.split(".")
        if any(part in SSM_PARTS for part in parts):
            groups.ssm.append(parameter)
        elif muon and parameter.ndim == 2 and not any(part in EDGES for part in parts):
            groups.hidden.append(parameter)
        elif parameter.ndim > 1:
            groups.matrix.append(parameter)
        else:
            groups.vector.append(parameter)
    return groups


def make_optimizers(network: nn.Module, settings: OptimizerSettings) -> dict[str, torch.optim.Optimizer]:
    """The optimizers of ``network``: ``{"optimizer": AdamW}``, and ``"muon"`` when the settings choose it.

    Every parameter group has a ``scale``, its share of the learning rate.

    Raises:
        SpecError: when Muon is chosen and the network has no hidden matrix (the VAE consists of convolutions).
    """
    groups = group_parameters(network, settings.kind == "muon")
    plain = {"weight_decay": 0.0, "scale": 1.0}
    decayed = {"weight_decay": settings.weight_decay, "scale": 1.0}
    slow = {"weight_decay": 0.0, "scale": settings.ssm_rate}
    pairs = ((groups.matrix, decayed), (groups.vector, plain), (groups.ssm, slow))
    adamw = torch.optim.AdamW(
        [{"params": parameters, **options} for parameters, options in pairs if parameters],
        lr=settings.learning_rate,
        betas=(0.9, settings.beta2),
    )
    if settings.kind == "adamw":
        return {"optimizer": adamw}
    if not groups.hidden:
        raise SpecError("muon trains hidden matrices and this network has none; use the optimizer adamw")
    muon = BatchedMuon(
        [{"params": groups.hidden, **decayed}],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return {"optimizer": adamw, "muon": muon}


def set_rate(optimizers: Mapping[str, torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of every group to its share of ``rate``."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]


def take_step(network: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer], clip: float) -> Tensor:
    """Clip gradients to the norm ``clip``, update the weights, clear the gradients; return the norm before clipping."""
    norm = nn.utils.clip_grad_norm_(network.parameters(), clip)
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return norm


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move ``ema`` toward ``network``; the first steps use a lower decay, so that the start is forgotten."""
    weight = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), weight)
