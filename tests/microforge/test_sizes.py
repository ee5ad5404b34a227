"""The parameter counts that SPEC section 2 promises."""

import pytest
import torch
from torch import nn

from microforge.backbone import MicroForgeBackbone
from microforge.denoiser import build_backbone, build_planner
from microforge.planner import RecurrentLatentPlanner
from microforge.spec import PRESETS
from microforge.vae import MicroForgeVAE

#: SPEC section 2, in millions: VAE, backbone, planner, total.
PROMISED = {"tiny": (16, 8, 4, 28), "small": (77, 29, 8.9, 114), "base": (110, 71, 11.9, 193)}


def _millions(*modules: nn.Module) -> float:
    return sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize("name", PROMISED)
@pytest.mark.parametrize("text_dim", [768, None])
def test_parameter_counts_are_within_five_percent(name: str, text_dim: int | None) -> None:
    spec = PRESETS[name]
    width = text_dim or spec.text_encoder.embed_dim
    with torch.device("meta"):
        vae = MicroForgeVAE(spec.vae)
        backbone = MicroForgeBackbone(spec.latent_channels, spec.backbone, width)
        plan = spec.planner
        planner = RecurrentLatentPlanner(
            plan.num_plan_tokens, plan.dim, width, spec.latent_channels, plan.depth
        )
    counts = (_millions(vae), _millions(backbone), _millions(planner), _millions(vae, backbone, planner))
    for part, got, promised in zip(
        ("VAE", "backbone", "planner", "total"), counts, PROMISED[name], strict=True
    ):
        assert abs(got - promised) <= 0.05 * promised, f"{name} {part}: {got:.2f}M, promised {promised}M"


def test_nano_stays_below_its_limits() -> None:
    spec = PRESETS["nano"]
    vae, backbone, planner = MicroForgeVAE("nano"), build_backbone(spec), build_planner(spec)
    assert _millions(vae) < 4 and _millions(backbone) < 2 and _millions(planner) < 1
    assert _millions(vae, backbone, planner) < 6
