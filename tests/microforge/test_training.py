"""Training's promises: it learns, it resumes bit for bit, it refuses to mix runs."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from microforge.checkpoint import read_checkpoint
from microforge.errors import CheckpointError, DivergenceError, MicroForgeError, OutputExistsError
from microforge.training import loop as training_loop
from microforge.training.command import TrainRequest, pick_device, run_stage
from microforge.training.losses import gradient_l1, pooled_l1, weighted_velocity
from microforge.training.settings import LoopSettings, OptimizerSettings, learning_rate
from microforge.training.state import STATE, RunIdentity

SMALL_RUN = {"config": "nano", "size": "64", "batch": 2, "save_every": 2, "sample_every": 100}


def _state(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / STATE)


def test_vae_run_killed_and_resumed_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = TrainRequest(stage="vae", out=tmp_path / "whole", steps=6, **SMALL_RUN)  # type: ignore[arg-type]
    run_stage(whole)
    command = [
        sys.executable, "-c", "from microforge.training.cli import main; main()", "vae", "--config", "nano",
        "--size", "64", "--batch", "2", "--save-every", "2", "--steps", "6", "--threads", "1",
        "--device", "cpu", "--out", str(tmp_path / "broken"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (tmp_path / "broken" / "vae" / STATE).exists():
        assert process.poll() is None, "the run ended before it saved anything"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run_stage(replace(whole, out=tmp_path / "broken", resume=True))
    first, second = _state(tmp_path / "whole" / "vae"), _state(tmp_path / "broken" / "vae")
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "broken/vae/log.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(set(steps)), "a resumed run logs no step twice"


def test_flow_learns_on_a_vae_checkpoint_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from microforge.training import command, settings

    torch.set_num_threads(1)
    few = replace(settings.FLOW_SETTINGS["nano"], scenes=16, captions_per_scene=2, draws=2)
    monkeypatch.setattr(command, "FLOW_SETTINGS", {"nano": few})
    with pytest.raises(CheckpointError, match="mf-train vae"):
        run_stage(TrainRequest(stage="flow", out=tmp_path, **SMALL_RUN))  # type: ignore[arg-type]
    run_stage(TrainRequest(stage="vae", out=tmp_path, steps=1, **SMALL_RUN))  # type: ignore[arg-type]
    flow = TrainRequest(stage="flow", out=tmp_path, steps=3, **SMALL_RUN)  # type: ignore[arg-type]
    run_stage(flow)
    run_stage(replace(flow, steps=4, resume=True))
    checkpoint = read_checkpoint(tmp_path / "flow" / "checkpoint")
    assert checkpoint.stages == ("vae", "flow") and checkpoint.tokenizer is not None
    assert checkpoint.spec.native_size == (64, 64) and checkpoint.spec.vae.latent_std
    for part in ("vae", "backbone", "planner", "text_encoder"):
        assert checkpoint.module_tensors(part)
    for picture in ("flow/loss.png", "flow/samples/0000004.png", "vae/loss.png"):
        assert (tmp_path / picture).stat().st_size > 1000


def test_decoder_only_run_leaves_the_latents_and_the_flow_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from microforge.training import command, settings

    few = replace(settings.FLOW_SETTINGS["nano"], scenes=16, captions_per_scene=2, draws=2)
    monkeypatch.setattr(command, "FLOW_SETTINGS", {"nano": few})
    request = TrainRequest(stage="vae", out=tmp_path, steps=2, **SMALL_RUN)  # type: ignore[arg-type]
    run_stage(request)
    run_stage(replace(request, stage="flow"))
    before = read_checkpoint(tmp_path / "flow" / "checkpoint")
    stamp = (tmp_path / "flow" / "latents.safetensors").stat().st_mtime_ns
    run_stage(replace(request, decoder_only=True))
    assert run_stage(replace(request, stage="flow", resume=True))["loss"] is None, "no step was left"
    after = read_checkpoint(tmp_path / "flow" / "checkpoint")
    changed = {name for name in before.tensors if not torch.equal(before.tensors[name], after.tensors[name])}
    assert changed and all(name.startswith("vae.decoder.") for name in changed)
    assert after.spec == before.spec
    assert (tmp_path / "flow" / "latents.safetensors").stat().st_mtime_ns == stamp, "not encoded again"
    run_stage(replace(request, steps=3, resume=True))
    with pytest.raises(CheckpointError, match="older VAE"):
        run_stage(replace(request, stage="flow", resume=True))


def test_run_is_not_mixed_with_another(tmp_path: Path) -> None:
    request = TrainRequest(stage="vae", out=tmp_path, steps=2, **SMALL_RUN)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="nothing to resume"):
        run_stage(replace(request, resume=True))
    run_stage(request)
    with pytest.raises(OutputExistsError, match="--resume goes on"):
        run_stage(request)
    with pytest.raises(CheckpointError, match="seed 0, not 1"):
        run_stage(replace(request, resume=True, seed=1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"config": "huge"}, "allowed: nano, tiny, small, base"),
        ({"size": "100"}, "nearest allowed: 96x96"),
        ({"data": "folder"}, "allowed: scenes"),
        ({"steps": 0}, "steps is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"device": "tpu"}, "not available"),
        ({"compile": True}, "--compile belongs to the stage flow"),
        ({"stage": "flow", "decoder_only": True}, "--decoder-only belongs to the stage vae"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    options: dict[str, object] = {"stage": "vae", "out": tmp_path / "run", **SMALL_RUN, **change}
    with pytest.raises(MicroForgeError, match=says):
        run_stage(TrainRequest(**options))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


class _Exploding:
    """A stage whose loss turns to NaN at step 3."""

    samples_per_step = 1

    def __init__(self) -> None:
        self.network = torch.nn.Linear(1, 1)

    def loss(self, step: int) -> dict[str, Tensor]:
        factor = float("nan") if step >= 3 else 1.0
        return {"loss": self.network(torch.ones(1, 1)).square().mean() * factor}

    def sheet(self, ema: torch.nn.Module) -> Tensor:
        return torch.zeros(3, 8, 8)

    def write(self, folder: Path, ema: torch.nn.Module) -> None:
        folder.mkdir(exist_ok=True)


def test_train_stops_at_nan_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    watch = LoopSettings(log_every=1, save_every=1)
    run = training_loop.Run(
        tmp_path, tmp_path / "checkpoint", RunIdentity("vae", "nano", 0), 9, OptimizerSettings(1e-3), watch
    )
    with pytest.raises(DivergenceError, match="before step 4"):
        training_loop.train(run, _Exploding(), Console(quiet=True))
    assert all(bool(torch.isfinite(value).all()) for value in _state(tmp_path).values())


def test_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    settings = OptimizerSettings(1.0, warmup_steps=10, decay_fraction=0.5)
    assert learning_rate(settings, 0, 100) == pytest.approx(0.1)
    assert learning_rate(settings, 30, 100) == 1.0
    assert learning_rate(settings, 50, 100) == 1.0
    assert 0.0 < learning_rate(settings, 99, 100) < 0.02
    assert learning_rate(settings, 50, 1000) == 1.0, "more steps put the fall off"


def test_optimizer_gives_the_ssm_its_own_group() -> None:
    from microforge.denoiser import build_backbone
    from microforge.spec import preset

    settings = OptimizerSettings(1e-3)
    optimizer = training_loop.make_optimizer(build_backbone(preset("nano")), settings)
    slow = [group for group in optimizer.param_groups if group["scale"] == settings.ssm_rate]
    assert len(slow) == 1 and slow[0]["weight_decay"] == 0.0
    assert len(slow[0]["params"]) == 4 * 6 * 2, "weights and biases of decay, B and C, both ways, in 4 blocks"


def test_losses_are_zero_only_for_equal_images() -> None:
    image = torch.rand(2, 3, 32, 32)
    assert gradient_l1(image, image) == 0 and pooled_l1(image, image, (4, 16)) == 0
    assert gradient_l1(image + 0.1, image) < 1e-6, "a constant shift has no gradient"
    assert pooled_l1(image + 0.1, image, (4, 16)) == pytest.approx(0.2, abs=1e-5)


def test_weighted_velocity_is_a_weighted_mean() -> None:
    target = torch.zeros(2, 1, 1, 1)
    velocity = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    assert weighted_velocity(velocity, target, torch.tensor([1.0, 0.0])) == 1.0
    assert weighted_velocity(velocity, target, torch.tensor([1.0, 1.0])) == 5.0


def test_pick_device_auto_finds_one() -> None:
    assert pick_device("auto") in ("cpu", "cuda", "mps")
