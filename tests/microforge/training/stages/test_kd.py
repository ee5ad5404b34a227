"""Distillation: the student follows a teacher that knows the same latents, whatever its size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from microforge.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from microforge.data.world.image_source import SceneSource
from microforge.errors import CheckpointError
from microforge.pipeline import MicroForgePipeline
from microforge.spec import ModelSpec, PlannerSpec
from microforge.tokenizer import PromptTokenizer
from microforge.training.engine.batch_shard import WHOLE
from microforge.training.loop_options import LoopSettings
from microforge.training.runs.stage_run import run_stage
from microforge.training.settings import KDSettings
from microforge.training.stages.flow import FlowContext, FlowStage
from microforge.training.stages.flow_network import predict
from microforge.training.stages.kd import KDStage


def _teacher(folder: Path, spec: ModelSpec, vae: Checkpoint | None = None) -> Path:
    """A checkpoint whose network has no zero weights, on ``vae`` or a VAE of its own."""
    torch.manual_seed(7)
    pipeline = MicroForgePipeline.from_spec(spec)
    for parameter in pipeline.backbone.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    if vae is not None:
        vae.load_into("vae", pipeline.vae)
        pipeline.spec = replace(spec, vae=vae.spec.vae)
    modules, tokenizer = pipeline.modules_by_name(), PromptTokenizer.load()
    write_checkpoint(folder, pipeline.spec, modules, tokenizer, ("vae", "flow"))
    return folder


def _wider(spec: ModelSpec) -> ModelSpec:
    return replace(
        spec, name="wider", backbone=replace(spec.backbone, dim=128, depth=3),
        planner=PlannerSpec(2, 128, num_plan_tokens=8, heads=2),
    )  # fmt: skip


def test_kd_learns_from_a_wider_teacher_on_the_same_vae(tmp_path: Path, mini: Any) -> None:
    run_stage(mini.request(tmp_path / "run", steps=1))
    vae = read_checkpoint(tmp_path / "run" / "vae" / "checkpoint")
    teacher = _teacher(tmp_path / "teacher", _wider(mini.MINI), vae)
    request = mini.request(tmp_path / "run", "kd", steps=2, teacher=str(teacher))
    run_stage(request)
    trained = read_checkpoint(tmp_path / "run" / "kd" / "checkpoint")
    assert trained.stages == ("vae", "flow", "kd")
    assert trained.spec.backbone == mini.MINI.backbone, "the student keeps its size"
    assert '"teacher":' in (tmp_path / "run" / "kd" / "log.jsonl").read_text("utf-8")
    run_stage(mini.changed(request, steps=3, resume=True))


def test_kd_without_a_vae_takes_the_teachers(tmp_path: Path, mini: Any) -> None:
    teacher = _teacher(tmp_path / "teacher", _wider(mini.MINI))
    run_stage(mini.request(tmp_path / "run", "kd", steps=1, teacher=str(teacher)))
    trained, was = read_checkpoint(tmp_path / "run" / "kd" / "checkpoint"), read_checkpoint(teacher)
    for name, value in was.module_tensors("vae").items():
        assert torch.equal(trained.module_tensors("vae")[name], value)


def test_kd_refuses_a_teacher_of_other_latents(tmp_path: Path, mini: Any) -> None:
    run_stage(mini.request(tmp_path / "run", steps=1))
    teacher = _teacher(tmp_path / "teacher", _wider(mini.MINI))
    with pytest.raises(CheckpointError, match="latents of another VAE than the student's"):
        run_stage(mini.request(tmp_path / "run", "kd", teacher=str(teacher)))
    assert not (tmp_path / "run" / "kd").exists()


def test_kd_refuses_a_teacher_without_a_denoiser_or_with_shorter_captions(tmp_path: Path, mini: Any) -> None:
    run_stage(mini.request(tmp_path / "run", steps=1))
    half = tmp_path / "run" / "vae" / "checkpoint"
    with pytest.raises(CheckpointError, match="the teacher has no backbone"):
        run_stage(mini.request(tmp_path / "run", "kd", teacher=str(half)))
    short = replace(mini.MINI, text_encoder=replace(mini.MINI.text_encoder, max_length=8))
    teacher = _teacher(tmp_path / "teacher", short, read_checkpoint(half))
    with pytest.raises(CheckpointError, match="reads 8 tokens and the student 16"):
        run_stage(mini.request(tmp_path / "run", "kd", teacher=str(teacher)))


def test_kd_starts_from_the_flow_of_the_run(tmp_path: Path, mini: Any) -> None:
    run_stage(mini.request(tmp_path, steps=1))
    run_stage(mini.request(tmp_path, "flow", steps=1))
    flow = tmp_path / "flow" / "checkpoint"
    run_stage(mini.request(tmp_path, "kd", steps=1, teacher=str(flow)))
    trained, was = read_checkpoint(tmp_path / "kd" / "checkpoint"), read_checkpoint(flow)
    assert all(torch.allclose(trained.tensors[name], value, atol=2e-3) for name, value in was.tensors.items())


def test_kd_loss_is_the_flow_loss_plus_the_weighted_distance_to_the_teacher(
    tmp_path: Path, mini: Any
) -> None:
    teacher = read_checkpoint(_teacher(tmp_path / "teacher", mini.MINI))
    settings = KDSettings(**mini.FLOW, teacher_weight=2.0)
    context = FlowContext.open(teacher.spec, teacher, LoopSettings(), (64, 64))
    flow = FlowStage(context, settings, SceneSource(), tmp_path / "latents", Console(quiet=True))
    stage = KDStage(flow, settings, teacher)
    terms, plain, batch = stage.loss(0), flow.loss(0), flow.make_batch(0, WHOLE)
    with torch.no_grad():
        distance = (
            (predict(flow.network, batch)[0] - predict(stage.teacher, batch)[0]).square().mean((1, 2, 3))
        )
    expected = ((1.0 - batch.t) * distance).mean()
    assert expected > 0 and torch.allclose(terms["teacher"], expected)
    assert torch.allclose(terms["loss"], plain["loss"] + 2.0 * expected)
    flow.network.load(teacher)
    # not exactly 0: with gradients some processors' kernels add in another order than without
    assert float(stage.loss(0)["teacher"].detach()) < 1e-10, (
        "a student that is the teacher has nothing to learn from it"
    )
    assert not any(parameter.requires_grad for parameter in stage.teacher.parameters())
