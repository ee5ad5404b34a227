"""``mf-train STAGE``: resumes bit for bit, refuses to mix runs, starts from finished weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from microforge.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from microforge.errors import CheckpointError, MicroForgeError, OutputExistsError, SpecError
from microforge.pipeline import MicroForgePipeline
from microforge.spec import SamplerSpec
from microforge.tokenizer import PromptTokenizer, train_tokenizer
from microforge.training.engine import device as engine_device
from microforge.training.engine.device import pick_device
from microforge.training.engine.state import STATE
from microforge.training.runs.stage_run import run_stage


def _state(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / STATE)


def _checkpoint(run: Path, stage: str) -> Checkpoint:
    return read_checkpoint(run / stage / "checkpoint")


def test_vae_run_killed_and_resumed_equals_an_uninterrupted_one(tmp_path: Path, mini: Any) -> None:
    whole = mini.request(tmp_path / "whole", steps=8)
    run_stage(whole)
    command = [
        sys.executable, mini.__spec__.origin, "vae", "--config", "mini", "--out", str(tmp_path / "broken"),
        "--steps", "8", "--set", "save_every=2", "--set", "device=cpu",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (tmp_path / "broken" / "vae" / STATE).exists():
        assert process.poll() is None, "the run ended before it saved anything"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run_stage(mini.changed(whole, out=tmp_path / "broken", resume=True))
    first, second = _state(tmp_path / "whole" / "vae"), _state(tmp_path / "broken" / "vae")
    assert first.keys() == second.keys() and float(first["adversary_optimizer.0.step"]) == 4.0
    for name in first:
        assert torch.equal(first[name], second[name]), name
    logs = [(tmp_path / run / "vae" / "log.jsonl").read_text("utf-8") for run in ("whole", "broken")]
    one, two = ([{**json.loads(row), "samples_per_s": 0} for row in log.splitlines()] for log in logs)
    assert one == two, "a resumed run logs the same steps with the same values"


def test_a_new_text_encoder_learns_with_its_own_tokenizer_and_never_mixes_two(
    tmp_path: Path, mini: Any
) -> None:
    file = tmp_path / "tokenizer.json"
    other = PromptTokenizer(train_tokenizer(["vaca azul", "a blue cow"] * 3))
    other.save(file)
    run_stage(mini.request(tmp_path, steps=1))
    flow = mini.request(tmp_path, "flow", steps=2, tokenizer=str(file))
    run_stage(flow)
    tokenizer = _checkpoint(tmp_path, "flow").tokenizer
    assert tokenizer is not None and PromptTokenizer.load(tokenizer).to_json() == other.to_json()
    with pytest.raises(CheckpointError, match="repeat its --set tokenizer=FILE"):
        run_stage(mini.changed(flow, steps=3, resume=True, tokenizer=None))
    run_stage(mini.changed(flow, steps=3, resume=True))
    shipped = mini.random_checkpoint(tmp_path / "shipped")
    with pytest.raises(CheckpointError, match="another tokenizer than"):
        run_stage(mini.changed(flow, out=tmp_path / "second", init=str(shipped)))
    with pytest.raises(SpecError, match="tokenizer belongs to the stages vae and flow, not to edit"):
        run_stage(mini.request(tmp_path, "edit", tokenizer=str(file)))


def test_edits_come_from_the_data_s_own_world(sprites: Path, tmp_path: Path, mini: Any) -> None:
    data = f"scenes+stickers:{sprites}"
    run_stage(mini.request(tmp_path, steps=1, data=data))
    run_stage(mini.request(tmp_path, "flow", steps=1, data=data))
    run_stage(mini.request(tmp_path, "edit", steps=2, data=data))
    assert _checkpoint(tmp_path, "edit").stages == ("vae", "flow", "edit")


def test_flow_uses_the_runs_vae_trains_and_resumes(tmp_path: Path, mini: Any) -> None:
    with pytest.raises(CheckpointError, match=r"mf-train vae --config mini .* or give --init"):
        run_stage(mini.request(tmp_path, "flow"))
    run_stage(mini.request(tmp_path, steps=1))
    flow = mini.request(tmp_path, "flow", steps=3)
    run_stage(flow)
    run_stage(mini.changed(flow, steps=4, resume=True))
    checkpoint = _checkpoint(tmp_path, "flow")
    assert checkpoint.stages == ("vae", "flow") and checkpoint.tokenizer is not None
    assert checkpoint.spec.native_size == (64, 64) and checkpoint.spec.vae.latent_std
    for part in ("vae", "backbone", "planner", "text_encoder"):
        assert checkpoint.module_tensors(part)
    for picture in ("flow/samples/0000004.png", "vae/samples/0000001.png"):
        assert (tmp_path / picture).stat().st_size > 1000
    assert read_checkpoint(tmp_path / "flow" / "best").spec == checkpoint.spec


def test_flow_is_not_resumed_on_a_vae_that_was_trained_again(tmp_path: Path, mini: Any) -> None:
    run_stage(mini.request(tmp_path, steps=1))
    run_stage(mini.request(tmp_path, "flow", steps=2))
    before = (tmp_path / "flow" / "latents.safetensors").stat().st_mtime_ns
    run_stage(mini.request(tmp_path, steps=2, resume=True))
    with pytest.raises(CheckpointError, match=r"latents of another VAE.*--force starts over"):
        run_stage(mini.request(tmp_path, "flow", steps=3, resume=True))
    assert (tmp_path / "flow" / "latents.safetensors").stat().st_mtime_ns == before, "refused before encoding"
    assert run_stage(mini.request(tmp_path, "flow", steps=2, force=True)).loss is not None


def test_decoder_only_run_leaves_the_latents_and_the_flow_as_they_are(tmp_path: Path, mini: Any) -> None:
    run_stage(mini.request(tmp_path, steps=2))
    run_stage(mini.request(tmp_path, "flow", steps=2))
    before = _checkpoint(tmp_path, "flow")
    stamp = (tmp_path / "flow" / "latents.safetensors").stat().st_mtime_ns
    run_stage(mini.request(tmp_path, steps=2, decoder_only=True))
    again = mini.request(tmp_path, "flow", steps=2, resume=True)
    assert run_stage(again).loss is None, "no step was left"
    after = _checkpoint(tmp_path, "flow")
    changed = {name for name in before.tensors if not torch.equal(before.tensors[name], after.tensors[name])}
    assert changed and all(name.startswith("vae.decoder.") for name in changed)
    assert after.spec == before.spec
    assert (tmp_path / "flow" / "latents.safetensors").stat().st_mtime_ns == stamp, "not encoded again"
    run_stage(mini.request(tmp_path, steps=3, resume=True))
    with pytest.raises(CheckpointError, match="older VAE"):
        run_stage(again)


def test_force_starts_over_and_keeps_the_encoded_data(tmp_path: Path, mini: Any) -> None:
    run_stage(mini.request(tmp_path, steps=1))
    run_stage(mini.request(tmp_path, "flow", steps=2))
    stamp = (tmp_path / "flow" / "latents.safetensors").stat().st_mtime_ns
    run_stage(mini.request(tmp_path, "flow", steps=1, force=True))
    assert float(_state(tmp_path / "flow")["optimizer.0.step"]) == 1.0
    assert (tmp_path / "flow" / "latents.safetensors").stat().st_mtime_ns == stamp


def test_run_is_not_mixed_with_another(tmp_path: Path, mini: Any) -> None:
    request = mini.request(tmp_path, steps=2)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        run_stage(mini.changed(request, resume=True))
    run_stage(request)
    with pytest.raises(OutputExistsError, match="--resume continues"):
        run_stage(request)
    with pytest.raises(CheckpointError, match="seed 0, not 1"):
        run_stage(mini.changed(request, resume=True, seed=1))


def _finished(folder: Path, mini: Any, **changes: Any) -> Path:
    """A whole checkpoint with random weights."""
    pipeline = MicroForgePipeline.from_spec(replace(mini.MINI, **changes))
    modules, tokenizer = pipeline.modules_by_name(), PromptTokenizer.load()
    write_checkpoint(folder, pipeline.spec, modules, tokenizer, ("vae", "flow"))
    return folder


def test_init_starts_a_flow_from_a_whole_checkpoint_without_a_vae_run(tmp_path: Path, mini: Any) -> None:
    start = _finished(tmp_path / "start", mini, native_size=(96, 64))
    options = {"config": None, "init": str(start), "optimizer": "adamw"}
    run_stage(mini.request(tmp_path / "run", "flow", steps=1, **options))
    trained, was = _checkpoint(tmp_path / "run", "flow"), read_checkpoint(start)
    assert trained.spec.name == "mini" and trained.spec.native_size == (96, 64), "both are the checkpoint's"
    for name, value in was.tensors.items():
        near = torch.allclose(trained.tensors[name], value, atol=2e-3)
        assert near and (torch.equal(trained.tensors[name], value) or not name.startswith("vae.")), name


def test_init_starts_a_vae_and_a_decoder_only_run(tmp_path: Path, mini: Any) -> None:
    start = _finished(tmp_path / "start", mini)
    was = read_checkpoint(start)
    for decoder_only, folder in ((False, "vae"), (True, "vae-decoder")):
        request = mini.request(tmp_path / "run", steps=1, init=str(start), decoder_only=decoder_only)
        run_stage(request)
        trained = _checkpoint(tmp_path / "run", folder)
        for name, value in was.module_tensors("vae").items():
            assert torch.allclose(trained.module_tensors("vae")[name], value, atol=2e-3), name
            if decoder_only and name.startswith("encoder."):
                assert torch.equal(trained.module_tensors("vae")[name], value)


def test_init_of_another_configuration_is_refused_and_both_are_named(tmp_path: Path, mini: Any) -> None:
    other = _finished(tmp_path / "other", mini, name="nano")
    with pytest.raises(CheckpointError, match="--init was trained with --config nano, not mini"):
        run_stage(mini.request(tmp_path / "run", init=str(other)))
    deeper = replace(mini.MINI.backbone, depth=3)
    odd = _finished(tmp_path / "odd", mini, backbone=deeper)
    with pytest.raises(
        CheckpointError, match=r"backbone BackboneSpec\(depth=3.*mini has BackboneSpec\(depth=2"
    ):
        run_stage(mini.request(tmp_path / "run", "flow", init=str(odd)))
    sampler = SamplerSpec(timesteps=(1.0, 0.5, 0.0), guidance_distilled=True)
    distilled = _finished(tmp_path / "distilled", mini, sampler=sampler)
    with pytest.raises(CheckpointError, match="distilled to few steps"):
        run_stage(mini.request(tmp_path / "run", "flow", init=str(distilled)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"config": "huge"}, "allowed: nano, tiny, small, base"),
        ({"size": "100"}, "nearest allowed: 96x96"),
        ({"data": "folder"}, "allowed: scenes"),
        ({"steps": 0}, "steps is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"steps": 4, "minutes": 1.0}, "steps and minutes exclude each other"),
        ({"batch": 4, "accumulate": 3}, "batch of 4 does not divide into 3 micro-batches"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"device": "tpu"}, "not available"),
        ({"compile": True}, "compile belongs to the stages flow, kd, edit, reward and rewrite, not to vae"),
        ({"stage": "flow", "decoder_only": True}, "decoder_only belongs to the stage vae, not to flow"),
        ({"stage": "flow", "crop": 64}, "crop belongs to the stage vae, not to flow"),
        ({"optimizer": "sgd"}, "allowed: adamw, muon"),
        ({"optimizer": "muon"}, "muon belongs to the stages flow, kd, edit, reward and rewrite"),
        ({"init": "nowhere"}, "no such checkpoint folder"),
        ({"stage": "kd"}, "needs --teacher"),
        (
            {"stage": "flow", "teacher": "pretrained"},
            "teacher belongs to the stages kd, edit, reward and rewrite, not to flow",
        ),
        ({"stage": "paint"}, "allowed: vae, flow, kd"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    tmp_path: Path, mini: Any, change: dict[str, object], says: str
) -> None:
    with pytest.raises(MicroForgeError, match=says):
        run_stage(mini.request(tmp_path / "run", **change))
    assert not (tmp_path / "run").exists()


def test_missing_tensorboard_is_named_before_anything_is_written(
    tmp_path: Path, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_device.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(
        MicroForgeError, match=r"tensorboard is not installed: pip install 'microforge\[train\]'"
    ):
        run_stage(mini.request(tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_pick_device_auto_finds_one() -> None:
    assert pick_device("auto") in ("cpu", "cuda", "mps")
