"""Comparison of distilled students with their teacher: the same prompts and noise, judged and compared in pairs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from microforge.checkpoint import read_checkpoint
from microforge.data.world.captions import Prompt, evaluation_prompts
from microforge.errors import SpecError
from microforge.evaluation.editing import MAX_DB, TaskEvaluation, evaluate_task
from microforge.evaluation.generation import (
    Images,
    evaluate_prompts,
    generation_scores,
    to_float_images,
    to_uint8_images,
)
from microforge.evaluation.metrics import psnr
from microforge.evaluation.scores import Accuracy, GenerationScores, TaskScores
from microforge.io.console import say
from microforge.pipeline import MicroForgePipeline
from microforge.training.stages.example_images import generate_examples
from microforge_benchmarks.evaluate.plan_state_error import PlanStateError, plan_state_error

BATCH = 16
_Z95 = 1.96


@dataclass(frozen=True)
class ComparedModel:
    """A checkpoint to compare, sampled in ``steps`` steps; None for its native steps."""

    name: str
    folder: Path
    steps: int | None = None


@dataclass(frozen=True)
class GeneratedSet:
    """All images of a model and their cost.

    Attributes:
        images: uint8 (N, H, W, 3).
        correct: whether each image shows its prompt.
        scores: scores of the images.
        evaluations: evaluations of the denoiser per image.
        seconds: CPU seconds per image.
    """

    images: Images
    correct: tuple[bool, ...]
    scores: GenerationScores
    evaluations: float
    seconds: float


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences of correctness, with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PSNRSummary:
    """Mean and median PSNR in dB over all images."""

    mean: float
    median: float


@dataclass(frozen=True)
class StudentScores:
    """Scores of one compared model.

    Attributes:
        checkpoint: folder of the checkpoint.
        steps: sampling steps.
        accuracy: share of images that show their prompt.
        categories: the share by category.
        facts: accuracy of each fact over the prompts that state it.
        split: accuracy on seen and on held-out compositions.
        difference: accuracy minus that of the first model, in pairs.
        psnr_db: PSNR of each image to the first model's image from the same noise.
        evaluations: evaluations of the denoiser per image.
        cpu_seconds: CPU seconds per image.
        plan_state_error: error of the plan state in half precision, of students only.
        tasks: scores of the tasks with a source image, if requested.
    """

    checkpoint: str
    steps: int
    accuracy: Accuracy
    categories: Mapping[str, float | None]
    facts: Mapping[str, Accuracy]
    split: Mapping[str, Accuracy]
    difference: PairedDifference
    psnr_db: PSNRSummary
    evaluations: float
    cpu_seconds: float
    plan_state_error: PlanStateError | None = None
    tasks: Mapping[str, TaskScores] = field(default_factory=dict)


def compared_models(teacher: Path, students: Sequence[Path]) -> list[ComparedModel]:
    """The teacher, the teacher at each student's number of steps, and the students.

    Raises:
        SpecError: when a student is not distilled, or the teacher is.
    """
    if read_checkpoint(teacher).spec.sampler.guidance_distilled:
        raise SpecError(f"{teacher} is distilled; the first argument is the teacher")
    counts, distilled = set(), []
    for folder in students:
        sampler = read_checkpoint(folder).spec.sampler
        if not sampler.guidance_distilled:
            raise SpecError(f"{folder} is not distilled; give one teacher, as the first argument")
        counts.add(len(sampler.timesteps) - 1)
        distilled.append(ComparedModel(folder.name, folder))
    fewer_steps = [ComparedModel(f"teacher at {count}", teacher, count) for count in sorted(counts)]
    return [ComparedModel("teacher", teacher), *fewer_steps, *distilled]


def compare_students(
    models: Sequence[ComparedModel], prompts: int, seed: int, examples: int = 0
) -> dict[str, StudentScores]:
    """Scores by name of the model, in order; all models are compared with the first one.

    Args:
        models: the models.
        prompts: number of prompts.
        seed: seed of the prompts, and of the first image.
        examples: number of examples of each task with a source image; 0 skips these tasks.
    """
    prompt_list = evaluation_prompts(prompts, seed)
    reference: GeneratedSet | None = None
    scores: dict[str, StudentScores] = {}
    for model in models:
        say(f"generating with {model.name}")
        pipeline = MicroForgePipeline.from_pretrained(model.folder)
        generated = generate_set(pipeline, model, prompt_list, seed)
        reference = generated if reference is None else reference
        is_student = model.steps is None and pipeline.spec.sampler.guidance_distilled
        texts = [prompt.text for prompt in prompt_list[:BATCH]]
        has_tasks = bool(examples) and model.steps is None
        tasks = _task_scores(pipeline, examples, seed) if has_tasks else {}
        scores[model.name] = StudentScores(
            checkpoint=str(model.folder),
            steps=len(pipeline.grid(model.steps)) - 1,
            accuracy=generated.scores.overall,
            categories={name: part.accuracy for name, part in generated.scores.categories.items()},
            facts=generated.scores.facts,
            split={
                "seen": generated.scores.split.seen.overall,
                "held_out": generated.scores.split.held_out.overall,
            },
            difference=paired_difference(generated.correct, reference.correct),
            psnr_db=psnr_summary(generated.images, reference.images),
            evaluations=round(generated.evaluations, 3),
            cpu_seconds=round(generated.seconds, 4),
            plan_state_error=plan_state_error(pipeline, texts, seed) if is_student else None,
            tasks=tasks,
        )
    return scores


def generate_set(
    pipeline: MicroForgePipeline, model: ComparedModel, prompts: Sequence[Prompt], seed: int
) -> GeneratedSet:
    """Generate and judge an image for each prompt; prompt i has the noise of seed + i for every model."""
    evaluations, seconds = 0, 0.0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal evaluations
        evaluations += len(inputs[0])

    def generate(group: Sequence[Prompt], first_seed: int) -> Images:
        nonlocal seconds
        start = time.process_time()
        texts = [prompt.text for prompt in group]
        images = pipeline.text2img(texts, num_steps=model.steps, seed=first_seed)
        seconds += time.process_time() - start
        return to_uint8_images(images)

    hook = pipeline.denoiser.register_forward_hook(count)
    results = list(evaluate_prompts(generate, prompts, seed, BATCH))
    hook.remove()
    return GeneratedSet(
        images=np.stack([one.image for one in results]),
        correct=tuple(one.verdict.correct for one in results),
        scores=generation_scores(results),
        evaluations=evaluations / len(prompts),
        seconds=seconds / len(prompts),
    )


def paired_difference(correct: Sequence[bool], reference: Sequence[bool]) -> PairedDifference:
    """Mean difference of correctness over pairs of images of one prompt, with its 95 % interval."""
    pairs = np.array(correct, float) - np.array(reference, float)
    spread = _Z95 * float(pairs.std(ddof=1)) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0
    mean = float(pairs.mean())
    return PairedDifference(round(mean, 4), round(mean - spread, 4), round(mean + spread, 4))


def psnr_summary(images: Images, references: Images) -> PSNRSummary:
    """PSNR of uint8 images (N, H, W, 3) to ``references``, each clipped to ``MAX_DB``."""
    levels = psnr(to_float_images(images), to_float_images(references)).clamp(max=MAX_DB)
    return PSNRSummary(round(float(levels.mean()), 3), round(float(levels.median()), 3))


def _task_scores(pipeline: MicroForgePipeline, count: int, seed: int) -> dict[str, TaskScores]:
    """Scores of ``mf-eval --task`` for every task with a source image that ``pipeline`` has."""
    settings = TaskEvaluation(count, pipeline.spec.native_size, seed)
    scores = {}
    for task in pipeline.spec.tasks:
        if task != "generate":
            say(f"  {task}")
            scores[task] = evaluate_task(task, partial(generate_examples, pipeline, task), settings)
    return scores
