"""``mf-train`` with a miniature configuration called ``mini``. Run as a script it is the command itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from microforge import spec
from microforge.data.world.image_source import SceneSource
from microforge.pipeline import MicroForgePipeline
from microforge.spec import BackboneSpec, ModelSpec, PlannerSpec, SamplerSpec, TextEncoderSpec, VAESpec
from microforge.tokenizer import PromptTokenizer
from microforge.training import presets
from microforge.training.engine import loop
from microforge.training.loop_options import DataOptions, LoopOptions
from microforge.training.runs.request import STAGE_SETTINGS, StageOptions, TrainRequest
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
    "optimizer": RATE, "steps": 4, "batch": 4, "noise_samples": 2, "scenes": 16, "captions_per_scene": 2,
}  # fmt: skip


def _few(source: SceneSource, count: int, size: tuple[int, int], device: str) -> Iterator[Tensor]:
    """Eight images to measure latents on."""
    yield source.images(1, 0, 8, size, device)


PRESETS = {
    "vae": VAESettings(RATE, steps=4, batch=4, adversarial=0.1, adversarial_start=0.5),
    "flow": FlowSettings(**FLOW),
    "kd": KDSettings(**FLOW),
    "edit": EditSettings(**FLOW),
    "reward": RewardSettings(**FLOW, judged_samples=24, samples_per_prompt=3, sampling_steps=2),
    "rewrite": RewriteSettings(**FLOW, judged_samples=24, sampling_steps=2),
}
#: (module, name, value) of what the configuration is made of.
PATCHES: tuple[tuple[Any, str, Any], ...] = (
    (spec, "PRESETS", {**spec.PRESETS, "mini": MINI}),
    (presets, "STAGE_PRESETS", {stage: {"mini": settings} for stage, settings in PRESETS.items()}),
    (SceneSource, "statistics", _few),
    (loop, "plot_losses", lambda log, out: None),  # a plot takes longer than a run
)
_GROUPS = {"options": StageOptions, "data": DataOptions, "loop": LoopOptions}


def request(out: Path, stage: str = "vae", **options: Any) -> TrainRequest:
    """A run on the CPU that saves often; every option under its settings key."""
    start = TrainRequest(
        stage, out, StageOptions(config="mini"), loop=LoopOptions(device="cpu", save_every=2)
    )
    return changed(start, **options)


def changed(request: TrainRequest, **options: Any) -> TrainRequest:
    """``request`` with other options, each under its settings key or the name of its field."""
    own = {item.name for item in fields(TrainRequest)}
    settings = {item.name for kind in STAGE_SETTINGS.values() for item in fields(kind)}
    if isinstance(kind := options.get("optimizer"), str):
        options = {**options, "optimizer": {"kind": kind}}
    for key, value in options.items():
        group = next(
            (name for name, kind in _GROUPS.items() if key in {item.name for item in fields(kind)}), None
        )
        if group is not None:
            request = replace(request, **{group: replace(getattr(request, group), **{key: value})})
        elif key in own:
            request = replace(request, **{key: value})
        else:
            assert key in settings, key
            request = replace(request, settings={**request.settings, key: value})
    return request


def random_checkpoint(folder: Path, distilled: bool = False) -> Path:
    """Random weights, none of them zero; ``distilled``: of a few-step student."""
    torch.manual_seed(7)
    pipeline = MicroForgePipeline.from_spec(MINI, PromptTokenizer.load())
    for parameter in pipeline.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    if distilled:
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
