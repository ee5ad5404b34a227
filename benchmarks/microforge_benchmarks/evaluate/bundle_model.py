"""A bundle, run by the runtime that phones use, as a model under test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microforge.bundle.files import load_bundle
from microforge.bundle.inputs import EncoderEntry
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
from microforge_runtimes.conditions import Context, bound_inputs
from microforge_runtimes.editor import Editor
from microforge_runtimes.engines.registry import open_session
from microforge_runtimes.generator import Generator
from microforge_runtimes.request import Request


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
    generator = Editor(bundle, target, size, keep_loaded=True)
    scales = [scale.default for scale in bundle.manifest.guidance.values()]
    # The autoencoder's ceiling takes hundreds of decodings, too many for Core ML without macOS.
    has_round_trip = image_encoder(generator) is not None and target != "coreml"
    return ModelUnderTest(
        kind="bundle",
        identity=generator.bundle.id,
        height=generator.size.height,
        width=generator.size.width,
        steps=generator.check(Request("a prompt", steps=options.steps)).table.steps,
        guidance=scales[0] if scales else 1.0,
        generate=_generator(generator, options.steps),
        round_trip=bundle_round_trip(generator) if has_round_trip else None,
        tasks=tuple(bundle.manifest.tasks),
        generate_task=_task_generator(generator, options.steps) if has_source_tasks else None,
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
            return editor.inpaint(source, mask, prompt, seed, steps).float_image
        return editor.edit(source, prompt, seed, steps, mask=mask).float_image

    def generate_task(task: str, examples: Triples, seed: int) -> Tensor:
        rows = range(len(examples.texts))
        return torch.from_numpy(
            np.concatenate([generate_one(task, examples[row], seed + row) for row in rows])
        )

    return generate_task


def image_encoder(generator: Generator) -> EncoderEntry | None:
    """What gives the latent that the bundle's decoder takes; None for a bundle without it."""
    encoders = generator.manifest.encoders.values()
    return next((item for item in encoders if item.latent is not None), None)


def bundle_round_trip(generator: Generator) -> RoundTrip:
    """Encoder and decoder of a bundle, applied to one image at a time: its shapes are static with batch 1."""
    encoder, decode = image_encoder(generator), generator.manifest.decode
    assert encoder is not None and encoder.latent is not None and decode.role is not None
    bundle, target, output = generator.bundle, generator.target, encoder.latent
    encoding = open_session(bundle, target, generator.component_key(encoder.role))
    decoding = open_session(bundle, target, generator.component_key(decode.role))
    component = bundle.component(encoder.role, generator.size)[1]

    def round_trip(images: Tensor) -> Tensor:
        inputs = (
            bound_inputs(component, encoder.inputs, Context(image=image[None].numpy())) for image in images
        )
        latents = (encoding.run(values)[output] for values in inputs)
        decoded = np.concatenate([decoding.run({decode.input: latent})[decode.output] for latent in latents])
        return torch.from_numpy(decoded).clamp(0, 1)

    return round_trip
