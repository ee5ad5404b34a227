"""``mf-train`` with a miniature configuration called ``mini``. Run as a script it is the command itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from microforge import spec
from microforge.data.world.image_source import SceneSource
from microforge.pipeline import MicroForgePipeline
from microforge.spec import BackboneSpec, ModelSpec, PlannerSpec, SamplerSpec, TextEncoderSpec, VAESpec
from microforge.tokenizer import PromptTokenizer
from microforge.training.engine import loop
from microforge.training.runs import plan
from microforge.training.runs.plan import TrainRequest
from microforge.training.settings import (
    EditSettings,
    FlowSettings,
    KDSettings,
    OptimizerSettings,
    RewardSettings,
    RewriteSettings,
    VAESettings,
)

MINI = ModelSpec(
    name="mini",
    vae=VAESpec((8, 8, 16, 16), 4, (1, 1, 1, 1), (1, 1, 1, 1), 1),
    backbone=BackboneSpec(depth=2, dim=64, attn_every=2, attn_heads=2, cross_heads=2, aligned_source=True),
    planner=PlannerSpec(depth=1, dim=64, num_plan_tokens=4, heads=2),
    text_encoder=TextEncoderSpec(embed_dim=32, num_layers=1, heads=2, max_length=16),
    native_size=(64, 64),
)
RATE = OptimizerSettings(1e-3, warmup_steps=2, decay_fraction=0.0)
FLOW: dict[str, Any] = {
    "optimizer": RATE, "steps": 4, "batch": 4, "draws": 2, "scenes": 16, "captions_per_scene": 2,
}  # fmt: skip


def _few(source: SceneSource, count: int, size: tuple[int, int], device: str) -> Iterator[Tensor]:
    """Eight images to measure latents on."""
    yield source.images(1, 0, 8, size, device)


#: (module, name, value) of what the configuration is made of.
PATCHES: tuple[tuple[Any, str, Any], ...] = (
    (spec, "PRESETS", {**spec.PRESETS, "mini": MINI}),
    (
        plan,
        "VAE_SETTINGS",
        {"mini": VAESettings(RATE, steps=4, batch=4, adversarial=0.1, adversarial_start=0.5)},
    ),
    (plan, "FLOW_SETTINGS", {"mini": FlowSettings(**FLOW)}),
    (plan, "KD_SETTINGS", {"mini": KDSettings(**FLOW)}),
    (plan, "EDIT_SETTINGS", {"mini": EditSettings(**FLOW)}),
    (plan, "REWARD_SETTINGS", {"mini": RewardSettings(**FLOW, judged=24, group=3, drawing_steps=2)}),
    (plan, "REWRITE_SETTINGS", {"mini": RewriteSettings(**FLOW, judged=24, drawing_steps=2)}),
    (SceneSource, "statistics", _few),
    (loop, "plot_losses", lambda log, out: None),  # a plot takes longer than a run
)


def request(out: Path, stage: str = "vae", **options: Any) -> TrainRequest:
    """A run that saves often and draws no samples on the way."""
    return TrainRequest(**{"stage": stage, "out": out, "config": "mini", "save_every": 2, **options})


def random_checkpoint(folder: Path, folded: bool = False) -> Path:
    """Random weights, none of them zero; ``folded``: of a few-step student."""
    torch.manual_seed(7)
    pipeline = MicroForgePipeline.from_spec(MINI, PromptTokenizer.load())
    for parameter in pipeline.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    if folded:
        pipeline.spec = replace(MINI, sampler=SamplerSpec((1.0, 0.5, 0.0), guidance_distilled=True))
    pipeline.stages = ("vae", "flow")
    pipeline.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    from microforge.training.cli import main

    torch.set_num_threads(1)
    for module, name, value in PATCHES:
        setattr(module, name, value)
    main()
