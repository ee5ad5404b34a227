"""A checkpoint, run by PyTorch, as a model under test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from microforge.checkpoint import read_checkpoint
from microforge.data.edit_examples import SOURCE_TASKS, Triples
from microforge.data.world.captions import Prompt
from microforge.errors import CheckpointError, SpecError
from microforge.evaluation.generation import ImageGenerator, Images, RoundTrip, to_uint8_images
from microforge.evaluation.planner_probe import PlannerMetrics, ProbeSettings, probe_planner
from microforge.pipeline import MicroForgePipeline
from microforge.spec import SamplerSpec, parse_size
from microforge.training.stages.example_images import generate_examples
from microforge_benchmarks.evaluate.model_under_test import (
    AnyTaskGenerator,
    ModelUnderTest,
    PlannerProbe,
    SamplingOptions,
    super_resolved,
)
from microforge_runtimes import open_model


def open_checkpoint(path: Path, options: SamplingOptions) -> ModelUnderTest:
    """Open a checkpoint folder, on a GPU if there is one.

    Raises:
        CheckpointError: when the checkpoint cannot be read, or has no tokenizer.
        SpecError: when the checkpoint cannot be sampled with ``options``.
    """
    if options.target is not None:
        raise SpecError("--target is for bundles; a checkpoint is run by PyTorch")
    identity = read_checkpoint(path).sha256
    pipeline = MicroForgePipeline.from_pretrained(path)
    if pipeline.tokenizer is None:
        raise CheckpointError(f"{path} has no tokenizer.json, so it cannot encode prompts")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = pipeline.to(device)
    factor = pipeline.vae.spec.downsample
    size = parse_size(options.size, factor) if options.size else pipeline.spec.native_size
    steps, guidance = _sampling(pipeline.spec.sampler, options)
    settings = ProbeSettings(*size, steps, guidance, seed=0)
    if (
        not pipeline.spec.sampler.guidance_distilled
    ):  # tasks with a source image use the pipeline's own sampler
        sampler = replace(pipeline.spec.sampler, timesteps=pipeline.grid(steps), text_guidance=guidance)
        pipeline.spec = replace(pipeline.spec, sampler=sampler)
    tasks = pipeline.spec.tasks
    has_source_tasks = bool(set(tasks) & set(SOURCE_TASKS))
    return ModelUnderTest(
        kind="checkpoint",
        identity=identity,
        height=size[0],
        width=size[1],
        steps=steps,
        guidance=guidance,
        generate=_generator(pipeline, settings),
        round_trip=_round_trip(pipeline, device),
        probe_planner=_planner_probe(pipeline, settings),
        tasks=tasks,
        generate_task=_task_generator(path, pipeline, settings, device) if has_source_tasks else None,
    )


def _sampling(sampler: SamplerSpec, options: SamplingOptions) -> tuple[int, float]:
    """Sampling steps and guidance scale of ``options``, by default those of ``sampler``."""
    native_steps = len(sampler.timesteps) - 1
    steps = native_steps if options.steps is None else options.steps
    if sampler.guidance_distilled and steps != native_steps:
        raise SpecError(f"this model was distilled to {native_steps} steps, got {steps}")
    if options.guidance is None:
        return steps, 1.0 if sampler.guidance_distilled else sampler.text_guidance
    if not math.isfinite(options.guidance):
        raise SpecError(f"guidance is {options.guidance}; a finite number is needed")
    return steps, options.guidance


def _generator(pipeline: MicroForgePipeline, settings: ProbeSettings) -> ImageGenerator:
    def generate(prompts: Sequence[Prompt], seed: int) -> Images:
        texts = [prompt.text for prompt in prompts]
        size = settings.height, settings.width
        return to_uint8_images(pipeline.text2img(texts, *size, settings.steps, settings.guidance, seed))

    return generate


def _round_trip(pipeline: MicroForgePipeline, device: str) -> RoundTrip:
    @torch.no_grad()
    def round_trip(images: Tensor) -> Tensor:
        return pipeline.vae.decode(pipeline.vae.encode(images.to(device)).mean).clamp(0, 1).cpu()

    return round_trip


def _planner_probe(pipeline: MicroForgePipeline, settings: ProbeSettings) -> PlannerProbe:
    def probe(prompts: Sequence[Prompt], seed: int) -> PlannerMetrics:
        return probe_planner(pipeline, [prompt.text for prompt in prompts], replace(settings, seed=seed))

    return probe


def _task_generator(
    path: Path, pipeline: MicroForgePipeline, settings: ProbeSettings, device: str
) -> AnyTaskGenerator:
    editor = open_model.open_checkpoint(path, (settings.height, settings.width), pipeline=pipeline)

    def generate_task(task: str, examples: Triples, seed: int) -> Tensor:
        if task == "super-resolve":
            rows = range(len(examples.texts))
            images = [super_resolved(editor, examples[row], seed + row, settings.steps) for row in rows]
            return torch.from_numpy(np.concatenate(images))
        on_device = replace(
            examples,
            sources=examples.sources.to(device),
            targets=examples.targets.to(device),
            masks=None if examples.masks is None else examples.masks.to(device),
        )
        return generate_examples(pipeline, task, on_device, seed).cpu()

    return generate_task
