"""A miniature model with random weights for the reference model's and the trainer's tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from microforge.pipeline import MicroForgePipeline
from microforge.sampling import uniform_grid
from microforge.spec import BackboneSpec, ModelSpec, PlannerSpec, SamplerSpec, TextEncoderSpec, VAESpec
from microforge.tokenizer import PromptTokenizer

MINIATURE = ModelSpec(
    name="miniature",
    vae=VAESpec(
        (8, 8, 16, 16), 4, (1, 1, 1, 1), (1, 1, 1, 1), 1, latent_mean=(0.1,) * 4, latent_std=(0.8,) * 4
    ),
    backbone=BackboneSpec(depth=4, dim=64, attn_every=2, attn_heads=2, cross_heads=2),
    planner=PlannerSpec(depth=1, dim=64, num_plan_tokens=4, heads=2),
    text_encoder=TextEncoderSpec(embed_dim=32, num_layers=1, heads=2, max_length=16),
    sampler=SamplerSpec(timesteps=uniform_grid(4), text_guidance=2.0),
    native_size=(64, 64),
)


@pytest.fixture(scope="session")
def pipeline() -> MicroForgePipeline:
    """``MINIATURE`` with no zero weights, so that every part of it can be seen in its output."""
    torch.manual_seed(0)
    made = MicroForgePipeline.from_spec(MINIATURE, PromptTokenizer.load())
    for parameter in made.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    return made


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module ``mini.py``, with its configuration in place: a run takes a second."""
    found = importlib.util.spec_from_file_location("mini", Path(__file__).with_name("mini.py"))
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    for owner, name, value in module.PATCHES:
        monkeypatch.setattr(owner, name, value)
    torch.set_num_threads(1)
    return module


@pytest.fixture(scope="session")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own folder of eight stickers, discs of one colour each: four subjects in the styles plain and wide."""
    folder, side = tmp_path_factory.mktemp("sprites"), 48
    for index in range(8):
        style = ("plain", "wide")[index % 2]
        image = Image.new("RGBA", (side, side))
        height = side if style == "plain" else side // 2
        color = ((220, 20, 30, 255), (20, 160, 60, 255), (30, 60, 220, 255), (240, 200, 20, 255))[index % 4]
        box = (0, (side - height) // 2, side - 1, (side + height) // 2 - 1)
        ImageDraw.Draw(image).ellipse(box, fill=color)
        path = folder / style / f"subject-{index // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder
