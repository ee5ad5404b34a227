"""What can be evaluated, as one kind of value: a checkpoint (in PyTorch) or a bundle (in its runtime)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.files import is_bundle, load_bundle
from microforge.data.edit_examples import SOURCE_TASKS, Triples, downsampled
from microforge.data.world.captions import Prompt
from microforge.errors import CheckpointError, SpecError
from microforge.evaluation.generation import Draw, Images, RoundTrip, to_uint8_images
from microforge.evaluation.oracle.detector import MIN_SIDE
from microforge.evaluation.planner_probe import Drawing, PlannerFigures, probe_planner
from microforge_runtimes.images.image_file import SourceImage
from microforge_runtimes.images.source_request import SourceRequest
from microforge_runtimes.latent_blending import composited
from microforge_runtimes.open_model import draw as draw_work
from microforge_runtimes.sampler import from_pixels, to_pixels
from microforge_runtimes.torch_editor import CheckpointEditor

if TYPE_CHECKING:
    from torch import Tensor

    from microforge_runtimes.editor import Editor
    from microforge_runtimes.generator import Generator

#: (prompts, seed) -> what the planner does while it draws them.
PlannerProbe = Callable[[Sequence[Prompt], int], PlannerFigures]


#: (task, examples, seed) -> images (B, 3, H, W) in [0, 1]; image i is drawn with seed + i.
DrawTask = Callable[[str, Triples, int], "Tensor"]


@dataclass(frozen=True)
class Settings:
    """How to draw; None is the model's own choice. ``size`` as on the command line: 256 or 256x384.

    ``target`` is the engine that runs a bundle; None: the first that the bundle was built for.
    """

    size: str | None = None
    steps: int | None = None
    guidance: float | None = None
    target: str | None = None


@dataclass(frozen=True)
class Subject:
    """A model to evaluate; ``round_trip`` is None for a bundle without its VAE encoder, ``planner`` for any bundle,
    ``draw_triples`` for a model without a task that has a source."""

    kind: str
    identity: str
    height: int
    width: int
    steps: int
    guidance: float
    draw: Draw
    round_trip: RoundTrip | None
    planner: PlannerProbe | None
    tasks: tuple[str, ...] = ("generate",)
    draw_triples: DrawTask | None = None


def open_subject(path: Path, settings: Settings) -> Subject:
    """Open a checkpoint or a bundle, the folder with manifest.json or an archive of it.

    Raises:
        CheckpointError, BundleError, SpecError: when it cannot be opened, drawn with these settings, or
            its images are too small for the oracle.
    """
    opener = _open_bundle if is_bundle(path) else _open_checkpoint
    subject = opener(path, settings)
    if min(subject.height, subject.width) < MIN_SIDE:
        raise SpecError(
            f"size {subject.height}x{subject.width} is too small: the oracle needs at least {MIN_SIDE} px"
        )
    return subject


def _open_checkpoint(path: Path, settings: Settings) -> Subject:
    import torch

    from microforge.checkpoint import read_checkpoint
    from microforge.pipeline import MicroForgePipeline
    from microforge.spec import parse_size
    from microforge.training.stages.edit import drawn

    if settings.target is not None:
        raise SpecError("--target is for bundles; a checkpoint is run by PyTorch")
    identity = read_checkpoint(path).sha256
    pipeline = MicroForgePipeline.from_pretrained(path)
    if pipeline.tokenizer is None:
        raise CheckpointError(f"{path} has no tokenizer.json, so it cannot read prompts")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = pipeline.to(device)
    sampler, factor = pipeline.spec.sampler, pipeline.vae.spec.downsample
    height, width = parse_size(settings.size, factor) if settings.size else pipeline.spec.native_size
    own_steps = len(sampler.timesteps) - 1
    steps = own_steps if settings.steps is None else settings.steps
    if sampler.guidance_distilled and steps != own_steps:
        raise SpecError(f"this model was distilled to {own_steps} steps, got {steps}")
    if settings.guidance is not None and not math.isfinite(settings.guidance):
        raise SpecError(f"guidance is {settings.guidance}; a finite number is needed")
    own_guidance = 1.0 if sampler.guidance_distilled else sampler.text_guidance
    guidance = own_guidance if settings.guidance is None else settings.guidance

    def draw(prompts: Sequence[Prompt], seed: int) -> Images:
        texts = [prompt.text for prompt in prompts]
        return to_uint8_images(pipeline.text2img(texts, height, width, steps, guidance, seed))

    @torch.no_grad()
    def round_trip(images: torch.Tensor) -> torch.Tensor:
        return pipeline.vae.decode(pipeline.vae.encode(images.to(device)).mean).clamp(0, 1).cpu()

    def planner(prompts: Sequence[Prompt], seed: int) -> PlannerFigures:
        texts = [prompt.text for prompt in prompts]
        return probe_planner(pipeline, texts, Drawing(height, width, steps, guidance, seed))

    def draw_triples(task: str, found: Triples, seed: int) -> torch.Tensor:
        if task == "super-resolve":
            ones = [enlarged(editor, found[index], seed + index, steps) for index in range(len(found.texts))]
            return torch.from_numpy(np.concatenate(ones))
        moved = replace(found, sources=found.sources.to(device), targets=found.targets.to(device))
        if found.masks is not None:
            moved = replace(moved, masks=found.masks.to(device))
        return drawn(pipeline, task, moved, seed).cpu()

    if not sampler.guidance_distilled:  # what ``drawn`` draws with is the pipeline's own
        own = replace(sampler, timesteps=pipeline.grid(steps), text_guidance=guidance)
        pipeline.spec = replace(pipeline.spec, sampler=own)
    tasks = pipeline.spec.tasks
    editor = CheckpointEditor(path, (height, width), pipeline=pipeline)
    return Subject(
        "checkpoint", identity, height, width, steps, guidance, draw, round_trip, planner, tasks,
        draw_triples if set(tasks) & set(SOURCE_TASKS) else None,
    )  # fmt: skip


def _open_bundle(path: Path, settings: Settings) -> Subject:
    from microforge.spec import parse_size
    from microforge_runtimes import Editor, Generator
    from microforge_runtimes.sampler import text_scale, timesteps

    if settings.guidance is not None:
        raise SpecError("--guidance is for checkpoints; a bundle's guidance is part of its manifest")
    size = None if settings.size is None else parse_size(settings.size, 1)
    bundle = load_bundle(path)
    edits = bool(set(bundle.manifest.tasks) & set(SOURCE_TASKS))
    target = settings.target or next(iter(bundle.manifest.targets), "onnx")
    generator = (Editor if edits else Generator)(bundle, target, size, keep_loaded=True)
    sampler = generator.bundle.manifest.sampler
    steps = len(timesteps(sampler, settings.steps)) - 1

    def draw(prompts: Sequence[Prompt], seed: int) -> Images:
        return np.stack(
            [
                generator.generate(prompt.text, seed + i, settings.steps).image
                for i, prompt in enumerate(prompts)
            ]
        )

    subject = Subject(
        "bundle", generator.bundle.id, generator.size.height, generator.size.width, steps, text_scale(sampler),
        draw, None, None,
    )  # fmt: skip
    subject = replace(subject, tasks=bundle.manifest.tasks)
    if isinstance(generator, Editor):
        subject = replace(subject, draw_triples=_bundle_draw_triples(generator, settings.steps))
    roles = {component.role for component in generator.bundle.manifest.components.values()}
    # The ceiling of the VAE takes hundreds of decodings, too many where Core ML's files are interpreted.
    measurable = "vae_encoder" in roles and target != "coreml"
    return replace(subject, round_trip=_bundle_round_trip(generator)) if measurable else subject


def _bundle_draw_triples(editor: Editor, steps: int | None) -> DrawTask:
    """As ``training.edit_stage.drawn``, one by one: a bundle's shapes are static with batch 1."""
    import torch

    def one(task: str, found: Triples, seed: int) -> NDArray[np.float32]:
        words = found.texts[0]
        if task == "super-resolve":
            return enlarged(editor, found, seed, steps)
        whole = (found.targets if task == "inpaint" else found.sources).numpy()
        mask = None if found.masks is None else found.masks.numpy()
        if task == "inpaint" and mask is not None:
            z = editor.inpaint(whole, mask, words, seed, steps).z
        else:
            z = editor.edit(whole, words, seed, steps, mask=mask).z
        return editor.decode(z) if mask is None else composited(editor.decode(z), whole, mask)

    def draw_triples(task: str, found: Triples, seed: int) -> torch.Tensor:
        count = len(found.texts)
        return torch.from_numpy(np.concatenate([one(task, found[i], seed + i) for i in range(count)]))

    return draw_triples


def enlarged(
    editor: Editor | CheckpointEditor, found: Triples, seed: int, steps: int | None
) -> NDArray[np.float32]:
    """What ``mf-generate`` makes of the small image of one example, its target's own: (1, 3, H, W)."""
    small = downsampled(found.targets, found.factors[0]).cpu().numpy()
    request = SourceRequest("super-resolve", SourceImage(to_pixels(small)), factor=found.factors[0])
    _, pixels = draw_work(editor, request, found.texts[0], seed, steps)
    return from_pixels(pixels)


def _bundle_round_trip(generator: Generator) -> RoundTrip:
    import torch

    from microforge_runtimes.engines.registry import open_session

    bundle, target = generator.bundle, generator.target
    key = {role: bundle.component(role, generator.size)[0] for role in ("vae_encoder", "vae_decoder")}
    encoder = open_session(bundle, target, key["vae_encoder"])
    decoder = open_session(bundle, target, key["vae_decoder"])

    def round_trip(images: torch.Tensor) -> torch.Tensor:
        """Image by image, since a bundle's shapes are static with batch 1."""
        latents = (encoder.run({"image": image[None].numpy()})["latent"] for image in images)
        decoded = np.concatenate([decoder.run({"latent": latent})["image"] for latent in latents])
        return torch.from_numpy(decoded).clamp(0, 1)

    return round_trip
