"""A bundle, run by the runtime that phones use, as a model under test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microforge.bundle.files import load_bundle
from microforge.data.edit_examples import SOURCE_TASKS, Triples
from microforge.data.world.captions import Prompt
from microforge.errors import SpecError
from microforge.evaluation.generation import ImageGenerator, Images, RoundTrip
from microforge.spec import parse_size
from microforge_benchmarks.evaluate.model_under_test import (
    AnyTaskGenerator,
    ModelUnderTest,
    SamplingOptions,
    super_resolved,
)
from microforge_runtimes.editor import Editor
from microforge_runtimes.engines.registry import open_session
from microforge_runtimes.generator import Generator
from microforge_runtimes.latent_blending import composited
from microforge_runtimes.sampler import text_scale, timesteps


def open_bundle(path: Path, options: SamplingOptions) -> ModelUnderTest:
    """Open a bundle with all its stages in memory.

    Raises:
        BundleError: when the bundle cannot be read, or has no such target or size.
        SpecError: when the bundle cannot be sampled with ``options``.
    """
    if options.guidance is not None:
        raise SpecError("--guidance is for checkpoints; a bundle's guidance is part of its manifest")
    size = None if options.size is None else parse_size(options.size, 1)
    bundle = load_bundle(path)
    has_source_tasks = bool(set(bundle.manifest.tasks) & set(SOURCE_TASKS))
    target = options.target or next(iter(bundle.manifest.targets), "onnx")
    generator = (Editor if has_source_tasks else Generator)(bundle, target, size, keep_loaded=True)
    sampler = generator.bundle.manifest.sampler
    roles = {component.role for component in generator.bundle.manifest.components.values()}
    # The autoencoder's ceiling takes hundreds of decodings, too many for Core ML without macOS.
    has_round_trip = "vae_encoder" in roles and target != "coreml"
    return ModelUnderTest(
        kind="bundle",
        identity=generator.bundle.id,
        height=generator.size.height,
        width=generator.size.width,
        steps=len(timesteps(sampler, options.steps)) - 1,
        guidance=text_scale(sampler),
        generate=_generator(generator, options.steps),
        round_trip=bundle_round_trip(generator) if has_round_trip else None,
        tasks=bundle.manifest.tasks,
        generate_task=_task_generator(generator, options.steps) if isinstance(generator, Editor) else None,
    )


def _generator(generator: Generator, steps: int | None) -> ImageGenerator:
    def generate(prompts: Sequence[Prompt], seed: int) -> Images:
        return np.stack(
            [generator.generate(prompt.text, seed + i, steps).image for i, prompt in enumerate(prompts)]
        )

    return generate


def _task_generator(editor: Editor, steps: int | None) -> AnyTaskGenerator:
    """Generate one example at a time, because a bundle's shapes are static with batch 1."""

    def generate_one(task: str, example: Triples, seed: int) -> NDArray[np.float32]:
        prompt = example.texts[0]
        if task == "super-resolve":
            return super_resolved(editor, example, seed, steps)
        source = (example.targets if task == "inpaint" else example.sources).numpy()
        mask = None if example.masks is None else example.masks.numpy()
        if task == "inpaint" and mask is not None:
            latent = editor.inpaint(source, mask, prompt, seed, steps).z
        else:
            latent = editor.edit(source, prompt, seed, steps, mask=mask).z
        image = editor.decode(latent)
        return image if mask is None else composited(image, source, mask)

    def generate_task(task: str, examples: Triples, seed: int) -> Tensor:
        rows = range(len(examples.texts))
        return torch.from_numpy(
            np.concatenate([generate_one(task, examples[row], seed + row) for row in rows])
        )

    return generate_task


def bundle_round_trip(generator: Generator) -> RoundTrip:
    """Encoder and decoder of a bundle, applied to one image at a time: its shapes are static with batch 1."""
    bundle, target = generator.bundle, generator.target
    key = {role: bundle.component(role, generator.size)[0] for role in ("vae_encoder", "vae_decoder")}
    encoder = open_session(bundle, target, key["vae_encoder"])
    decoder = open_session(bundle, target, key["vae_decoder"])

    def round_trip(images: Tensor) -> Tensor:
        latents = (encoder.run({"image": image[None].numpy()})["latent"] for image in images)
        decoded = np.concatenate([decoder.run({"latent": latent})["image"] for latent in latents])
        return torch.from_numpy(decoded).clamp(0, 1)

    return round_trip
