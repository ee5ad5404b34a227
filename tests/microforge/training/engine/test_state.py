"""The state of a run: whole or refused, never half."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from microforge.errors import CheckpointError
from microforge.training.engine.optimizers import make_optimizers, take_step
from microforge.training.engine.state import (
    STATE,
    RunIdentity,
    RunProgress,
    StateParts,
    check_identity,
    load_state,
    save_state,
    steps_done,
)
from microforge.training.settings import OptimizerSettings

IDENTITY = RunIdentity("flow", "nano", 3, encoder="abc", optimizer="muon")
PROGRESS = RunProgress(7, 1.5, 1.25, 1.5, "64x64")


def _parts(seed: int, kind: str = "muon", width: int = 4) -> StateParts:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 1))
    optimizers = make_optimizers(network, OptimizerSettings(1e-2, kind=kind))
    network(torch.ones(2, width)).sum().backward()
    take_step(network, optimizers, 1.0)
    return StateParts({"network": network, "ema": nn.Linear(1, 1)}, optimizers)


def test_state_holds_modules_every_optimizer_and_the_progress_of_the_run(tmp_path: Path) -> None:
    one, two = _parts(0), _parts(1)
    save_state(tmp_path, PROGRESS, IDENTITY, one)
    assert load_state(tmp_path, IDENTITY, two) == PROGRESS and steps_done(tmp_path) == 7
    stored = load_file(tmp_path / STATE)
    save_state(tmp_path, PROGRESS, IDENTITY, two)
    assert {"muon.0.momentum_buffer", "optimizer.0.exp_avg", "ema.bias"} <= stored.keys()
    again = load_file(tmp_path / STATE)
    assert all(torch.equal(value, again[name]) for name, value in stored.items())
    assert not list(tmp_path.glob(".state*")), "no temporary file is left"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stage": "vae"}, "stage 'flow', not 'vae'"),
        ({"config": "tiny"}, "config 'nano', not 'tiny'"),
        ({"seed": 4}, "seed 3, not 4"),
        ({"optimizer": "adamw"}, "optimizer 'muon', not 'adamw'"),
        ({"encoder": "xyz"}, "latents of another VAE, which has been retrained since; --force starts over"),
    ],
)
def test_state_of_another_run_is_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    save_state(tmp_path, PROGRESS, IDENTITY, _parts(0))
    with pytest.raises(CheckpointError, match=says):
        check_identity(tmp_path, replace(IDENTITY, **change))  # type: ignore[arg-type]


def test_state_of_an_older_version_with_fewer_keys_is_read(tmp_path: Path) -> None:
    parts = _parts(0, kind="adamw")
    save_state(tmp_path, PROGRESS, IDENTITY, parts)
    with safe_open(str(tmp_path / STATE), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    old = {key: value for key, value in asdict(IDENTITY).items() if key in ("stage", "config", "seed")}
    save_file(tensors, tmp_path / STATE, {"step": "7", "identity": json.dumps(old)})
    assert load_state(tmp_path, IDENTITY, parts).step == 7


@pytest.mark.parametrize("cut", [0, 5, 200, -3])
def test_damaged_state_is_one_named_error(tmp_path: Path, cut: int) -> None:
    save_state(tmp_path, PROGRESS, IDENTITY, _parts(0))
    data = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(data[:cut])
    with pytest.raises(CheckpointError, match=r"damaged or truncated.*--force"):
        load_state(tmp_path, IDENTITY, _parts(0))


def test_state_that_is_some_other_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / STATE)
    with pytest.raises(CheckpointError, match="not the state of a run"):
        steps_done(tmp_path)


def test_state_of_another_shape_names_the_part(tmp_path: Path) -> None:
    save_state(tmp_path, PROGRESS, IDENTITY, _parts(0))
    with pytest.raises(CheckpointError, match="does not fit the network of this run"):
        load_state(tmp_path, IDENTITY, _parts(0, width=8))
