"""Comparison of students with their teacher: the same prompts, the same noise, and counted evaluations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from microforge.io.console import BAD_INPUT, DONE, exit_code
from microforge.pipeline import MicroForgePipeline
from microforge.sampling import uniform_grid
from microforge.spec import BackboneSpec, ModelSpec, PlannerSpec, SamplerSpec, TextEncoderSpec, VAESpec
from microforge.tokenizer import PromptTokenizer
from microforge_benchmarks.evaluate.plan_state_error import plan_state_error
from microforge_benchmarks.evaluate.student_comparison import (
    PairedDifference,
    compare_students,
    compared_models,
)
from microforge_benchmarks.evaluate.students import app

SPEC = ModelSpec(
    name="miniature",
    vae=VAESpec((8, 8, 16, 16), 4, (1, 1, 1, 1), (1, 1, 1, 1), 1),
    backbone=BackboneSpec(depth=2, dim=64, attn_every=2, attn_heads=2, cross_heads=2),
    planner=PlannerSpec(depth=1, dim=64, num_plan_tokens=4, heads=2),
    text_encoder=TextEncoderSpec(embed_dim=32, num_layers=1, heads=2, max_length=16),
    sampler=SamplerSpec(timesteps=uniform_grid(8), text_guidance=2.0),
    native_size=(64, 64),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A teacher of 8 guided steps, and the same weights said to be a student of 2."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pipeline = MicroForgePipeline.from_spec(SPEC, PromptTokenizer.load())
    for parameter in pipeline.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    root = tmp_path_factory.mktemp("checkpoints")
    pipeline.save_pretrained(root / "teacher")
    pipeline.spec = replace(
        SPEC, sampler=replace(SPEC.sampler, timesteps=uniform_grid(2), guidance_distilled=True)
    )
    pipeline.save_pretrained(root / "student")
    return root / "teacher", root / "student"


def test_compare_students_counts_evaluations_and_pairs_the_noise(folders: tuple[Path, Path]) -> None:
    scores = compare_students(compared_models(folders[0], folders[1:]), prompts=12, seed=3)
    assert list(scores) == ["teacher", "teacher at 2", "student"]
    assert [entry.evaluations for entry in scores.values()] == [16, 4, 2]
    teacher, student = scores["teacher"], scores["student"]
    assert teacher.psnr_db.mean == 100.0, "a perfect copy, clipped"
    assert teacher.difference == PairedDifference(0.0, 0.0, 0.0)
    assert 0 < student.psnr_db.mean < 100
    assert student.accuracy.total == 12 and student.steps == 2
    assert teacher.facts["shape"].total == 12
    assert [teacher.split[part].total for part in ("seen", "held_out")] == [5, 5]
    assert teacher.plan_state_error is None and student.plan_state_error is not None


def test_the_plan_state_error_is_small_and_not_zero(folders: tuple[Path, Path]) -> None:
    error = plan_state_error(
        MicroForgePipeline.from_pretrained(folders[1]), ["a red circle", "a blue square"]
    )
    assert error.mean is not None and error.max is not None
    assert 0.0 < error.mean <= error.max < 0.02


def test_the_command_writes_scores_and_a_plot_and_refuses_swapped_arguments(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student = map(str, folders)
    out = tmp_path / "c.json"
    assert exit_code(app, [teacher, student, "--out", str(out), "--prompts", "2"]) == DONE
    assert set(json.loads(out.read_text("utf-8"))["models"]) == {"teacher", "teacher at 2", "student"}
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert exit_code(app, [teacher, student, "--out", str(out)]) == BAD_INPUT
    assert "already exists" in capsys.readouterr().err
    assert exit_code(app, [student, teacher, "--out", str(tmp_path / "d.json")]) == BAD_INPUT
    assert "the first argument is the teacher" in capsys.readouterr().err
