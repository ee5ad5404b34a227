"""Which parameters learn by which rule: AdamW in three groups, Muon for hidden matrices on request, and EMA.

Muon (Jordan et al. 2024; scaled to AdamW's step size as in arXiv 2502.16982, so that one learning rate and one
weight decay serve both) orthogonalises the update of a matrix. It is for hidden matrices: embeddings and the
first and last projections, whose rows are not interchangeable features, stay with AdamW, and so do convolutions,
vectors and the SSM's own parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from microforge.errors import SpecError
from microforge.training.engine.muon import BatchedMuon
from microforge.training.settings import OptimizerSettings

#: Parameters of the SSM's decay, B and C: they learn slower and are not decayed (SPEC section 4).
SSM_PARTS = ("decay_f", "decay_b", "b_f", "b_b", "c_f", "c_b")
#: Modules between tokens or latents and the hidden width: never Muon's.
EDGES = ("tokens", "patch_in", "latent_in", "head")


class Groups(NamedTuple):
    """A network's trained parameters by what they are."""

    hidden: list[nn.Parameter]  # Muon's, when it is asked for
    matrix: list[nn.Parameter]
    vector: list[nn.Parameter]
    ssm: list[nn.Parameter]


def group_parameters(network: nn.Module, muon: bool) -> Groups:
    """Sort the parameters of ``network`` that are trained; without ``muon`` none is ``hidden``."""
    groups = Groups([], [], [], [])
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
    """``{"optimizer": AdamW}`` and, when the settings say so, ``"muon"`` beside it.

    Every group holds a ``scale``, its share of the learning rate.

    Raises:
        SpecError: when Muon is asked for and the network has no hidden matrix (the VAE is all convolutions).
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
        lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    return {"optimizer": adamw, "muon": muon}


def set_rate(optimizers: Mapping[str, torch.optim.Optimizer], rate: float) -> None:
    """Give every group its share of ``rate``."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]


def take_step(network: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer], clip: float) -> Tensor:
    """Clip the gradients of ``network`` to the norm ``clip``, update, forget them; the norm before clipping."""
    norm = nn.utils.clip_grad_norm_(network.parameters(), clip)
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return norm


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move ``ema`` toward ``network``; early steps use a shorter memory."""
    weight = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), weight)
