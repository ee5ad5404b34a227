"""Which optimizer trains which parameter, and that both are resumed exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from microforge.denoiser import build_backbone
from microforge.errors import SpecError
from microforge.spec import preset
from microforge.training.engine.optimizers import make_optimizers, set_rate
from microforge.training.engine.state import STATE
from microforge.training.runs.stage_run import run_stage
from microforge.training.settings import OptimizerSettings, learning_rate
from microforge.training.stages.flow_network import FlowNetwork
from microforge.vae import MicroForgeVAE

MUON = OptimizerSettings(1e-3, kind="muon")


def test_adamw_gives_the_ssm_its_own_group() -> None:
    settings = OptimizerSettings(1e-3)
    optimizers = make_optimizers(build_backbone(preset("nano")), settings)
    assert list(optimizers) == ["optimizer"]
    slow = [group for group in optimizers["optimizer"].param_groups if group["scale"] == settings.ssm_rate]
    assert len(slow) == 1 and slow[0]["weight_decay"] == 0.0
    assert len(slow[0]["params"]) == 4 * 6 * 2, "weights and biases of decay, B and C, both ways, in 4 blocks"


def test_muon_takes_hidden_matrices_only_and_every_parameter_has_one_optimizer(mini: Any) -> None:
    network = FlowNetwork(mini.MINI)
    optimizers = make_optimizers(network, MUON)
    owned = {
        kind: {id(value) for group in optimizer.param_groups for value in group["params"]}
        for kind, optimizer in optimizers.items()
    }
    assert not owned["optimizer"] & owned["muon"]
    names = {name for name, value in network.named_parameters() if id(value) in owned["muon"]}
    assert len(owned["optimizer"]) + len(names) == len(list(network.parameters()))
    assert {
        "denoiser.backbone.blocks.0.ffn.up.weight",
        "text_encoder.layers.0.attention.query.weight",
    } <= names
    apart = ("tokens", "patch_in", "latent_in", ".head.", "bias", "norm", "decay_f", ".b_f.", "conv", "table")
    assert not [name for name in names for part in apart if part in name]


def test_muon_is_refused_for_a_network_of_convolutions(mini: Any) -> None:
    with pytest.raises(SpecError, match="hidden matrices"):
        make_optimizers(MicroForgeVAE(mini.MINI.vae), MUON)


def test_set_rate_gives_every_group_its_share(mini: Any) -> None:
    optimizers = make_optimizers(FlowNetwork(mini.MINI), MUON)
    set_rate(optimizers, 0.5)
    rates = {group["lr"] for optimizer in optimizers.values() for group in optimizer.param_groups}
    assert rates == {0.5, 0.5 * MUON.ssm_rate}


def test_flow_with_muon_resumed_equals_an_uninterrupted_run(tmp_path: Path, mini: Any) -> None:
    run_stage(mini.request(tmp_path, steps=1))
    # a rate that never falls, so that stopping early and going on is the same plan
    for run, stops in (("whole", (4,)), ("broken", (2, 4))):
        for index, steps in enumerate(stops):
            flow = mini.request(tmp_path, "flow", steps=steps, optimizer="muon", resume=index > 0)
            run_stage(flow)
        (tmp_path / "flow").rename(tmp_path / run)
    first, second = (load_file(tmp_path / run / STATE) for run in ("whole", "broken"))
    assert first.keys() == second.keys() and "muon.0.momentum_buffer" in first
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("bad", [{"kind": "sgd"}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}])
def test_optimizer_settings_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="allowed"):
        replace(MUON, **bad)


def test_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    settings = OptimizerSettings(1.0, warmup_steps=10, decay_fraction=0.5)
    assert learning_rate(settings, 0, 100) == pytest.approx(0.1)
    assert learning_rate(settings, 30, 100) == 1.0
    assert learning_rate(settings, 50, 100) == 1.0
    assert 0.0 < learning_rate(settings, 99, 100) < 0.02
    assert learning_rate(settings, 50, 1000) == 1.0, "more steps put the fall off"
    assert learning_rate(replace(settings, decay_fraction=0.0), 99, 100) == 1.0, "a phase that goes on"
