"""A checkpoint of a miniature model with random weights, for the tests of distillation and export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import microforge
from microforge.pipeline import MicroForgePipeline
from microforge.sampling import uniform_grid
from microforge.spec import TASKS, BackboneSpec, ModelSpec, PlannerSpec, SamplerSpec, TextEncoderSpec, VAESpec
from microforge.tokenizer import PromptTokenizer, train_tokenizer

MINIATURE = ModelSpec(
    name="miniature",
    vae=VAESpec(
        channels=(8, 8, 16, 16), latent_channels=4, encoder_depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1, 1),
        mid_depth=1, latent_mean=(0.1, -0.2, 0.3, 0.0), latent_std=(1.5, 0.5, 1.0, 2.0),
    ),
    backbone=BackboneSpec(depth=2, dim=64, attn_every=2, attn_heads=2, cross_heads=2, aligned_source=True),
    planner=PlannerSpec(depth=1, dim=64, num_plan_tokens=4, heads=2),
    text_encoder=TextEncoderSpec(embed_dim=32, num_layers=1, heads=2, vocab_size=320, max_length=16),
    sampler=SamplerSpec(timesteps=uniform_grid(4), text_guidance=2.0),
    native_size=(64, 64),
)  # fmt: skip


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of ``MINIATURE``: nothing is zero, so every weight matters."""
    return saved(MINIATURE, tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture(scope="session")
def editing_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, for a model that knows all four tasks."""
    return saved(replace(MINIATURE, tasks=TASKS), tmp_path_factory.mktemp("checkpoint") / "editing")


@pytest.fixture(scope="session")
def editing_bundle(editing_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``editing_checkpoint`` as a bundle of all four tasks for ONNX, in float32."""
    out = tmp_path_factory.mktemp("bundle") / "four.mfb"
    return microforge.export(editing_checkpoint, out, targets=["onnx"], precision="fp32", progress=False)


def saved(spec: ModelSpec, folder: Path) -> Path:
    tokenizer = PromptTokenizer(train_tokenizer(["a red circle", "a blue square on a white background"], 320))
    torch.manual_seed(0)
    pipeline = MicroForgePipeline.from_spec(spec, tokenizer)
    for parameter in pipeline.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    pipeline.save_pretrained(folder)
    return folder
