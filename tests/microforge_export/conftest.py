"""A miniature model with random weights, its checkpoint, and bundles built from it, once per run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from microforge.pipeline import MicroForgePipeline
from microforge.sampling import uniform_grid
from microforge.spec import TASKS, BackboneSpec, ModelSpec, PlannerSpec, SamplerSpec, TextEncoderSpec, VAESpec
from microforge.tokenizer import PromptTokenizer, train_tokenizer
from microforge_export.calibrate import Roll, calibration_inputs, roll, torch_runner
from microforge_export.microforge_provider import read_model
from microforge_export.onnx_int8 import OnnxDraft
from microforge_export.pipeline import build
from microforge_export.program import Component, SourceModel, trace
from microforge_export.recipe import Draw, make_recipe

MINIATURE = ModelSpec(
    name="miniature",
    vae=VAESpec(
        channels=(8, 8, 16, 16), latent_channels=4, encoder_depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1, 1),
        mid_depth=1, latent_mean=(0.1, -0.2, 0.3, 0.0), latent_std=(1.5, 0.5, 1.0, 2.0),
    ),
    backbone=BackboneSpec(depth=2, dim=64, attn_every=2, attn_heads=2, cross_heads=2, source_in_place=True),
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
    """A bundle of all four tasks at the miniature's own size, for ONNX."""
    out = tmp_path_factory.mktemp("bundle") / "four.mfb"
    return built(editing_checkpoint, out, tasks=None)


def saved(spec: ModelSpec, folder: Path) -> Path:
    tokenizer = PromptTokenizer(train_tokenizer(["a red circle", "a blue square on a white background"], 320))
    torch.manual_seed(0)
    pipeline = MicroForgePipeline.from_spec(spec, tokenizer)
    for parameter in pipeline.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the miniature at its own size, for every target."""
    return built(checkpoint, tmp_path_factory.mktemp("bundle") / "one.mfb", target="onnx,executorch")


@pytest.fixture(scope="session")
def two_sizes(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the miniature at its own size and at 64 x 96 pixels, for ONNX alone."""
    return built(checkpoint, tmp_path_factory.mktemp("bundle") / "two.mfb", "64", "64x96")


def built(
    checkpoint: Path, out: Path, *sizes: str, target: str = "onnx", tasks: str | None = "generate"
) -> Path:
    recipe = make_recipe(target=target, precision="fp32", sizes=sizes, tasks=tasks)
    build(recipe, lambda: read_model(checkpoint), out)
    return out


@pytest.fixture(scope="session")
def source_model(checkpoint: Path) -> SourceModel:
    return read_model(checkpoint)


@pytest.fixture(scope="session")
def components(source_model: SourceModel) -> tuple[Component, ...]:
    """The miniature's networks at its own size."""
    return source_model.provider.components([source_model.native_size])


@pytest.fixture(scope="session")
def programs(components: tuple[Component, ...]) -> dict[str, ExportedProgram]:
    """Their traces, once for all tests: the costly part of most of them."""
    return {item.key: trace(item) for item in components}


@pytest.fixture(scope="session")
def rolled(source_model: SourceModel, components: tuple[Component, ...]) -> Roll:
    """One drawing by torch with every evaluation."""
    return roll(source_model, components, torch_runner(components), Draw("a red circle", 0))


@pytest.fixture(scope="session")
def drafts(
    components: tuple[Component, ...], programs: dict[str, ExportedProgram], rolled: Roll,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, OnnxDraft]:  # fmt: skip
    """The miniature's fp32 ONNX graphs, ready for any choice of schemes."""
    folder = tmp_path_factory.mktemp("ranges")
    return {
        item.key: OnnxDraft.make(item, programs[item.key], calibration_inputs([rolled], item.role, 8), folder)
        for item in components
    }
