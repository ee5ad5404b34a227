"""``mf-eval``: all scores of text-to-image generation, with the ceilings that true renders reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from rich.progress import Progress
from torch import Tensor

from microforge.data.world.captions import Prompt
from microforge.evaluation.classifier import Classifier, load_classifier
from microforge.evaluation.contact_sheet import sheet_stride
from microforge.evaluation.generation import (
    BATCH,
    ImageGenerator,
    Images,
    JudgedImage,
    evaluate_prompts,
    generation_scores,
    to_float_images,
    true_renders,
    vae_quality,
    without_image,
)
from microforge.evaluation.kid import kid
from microforge.evaluation.scores import GenerationScores, VAEQuality
from microforge.streams import FixedSeed
from microforge_benchmarks.evaluate.model_under_test import ModelUnderTest
from microforge_benchmarks.evaluate.progress import image_progress
from microforge_benchmarks.evaluate.reports import (
    FORMAT,
    GenerationReport,
    KidReport,
    KidValue,
    PlannerReport,
)

VAE_SCENES = 128
PLANNER_PROMPTS = 16


@dataclass(frozen=True)
class _Measured:
    """Judged images, and the classifier's features (N, F) of them."""

    results: list[JudgedImage]
    features: Tensor

    @property
    def scores(self) -> GenerationScores:
        return generation_scores(self.results)


def evaluate_generation(
    model: ModelUnderTest, name: str, prompts: Sequence[Prompt], prompt_set: str, seed: int
) -> tuple[GenerationReport, list[JudgedImage]]:
    """Generate and judge one image for each prompt, with a progress bar on stderr.

    Args:
        model: the model under test.
        name: path of the model, for the report.
        prompts: the prompts.
        prompt_set: name of the set of prompts, for the report.
        seed: seed of the first image.

    Returns:
        The report, and the judged images; only those that a contact sheet shows still have their pixels.
    """
    classifier = load_classifier()
    with image_progress() as progress:

        def measure(generate: ImageGenerator, description: str) -> _Measured:
            return _measure(
                generate, prompts, seed, classifier, _tracker(progress, len(prompts), description)
            )

        images = measure(model.generate, "images")
        truth = measure(true_renders(*model.size), "ceiling")
        ceilings = {"true_renders": truth.scores}
        quality: VAEQuality | None = None
        copies: _Measured | None = None
        if model.round_trip is not None:
            copies = measure(true_renders(*model.size, model.round_trip), "ceiling of the VAE")
            ceilings["vae_round_trip"] = copies.scores
            quality = vae_quality(model.round_trip, *model.size, scenes=VAE_SCENES, seed=seed)
    # The reference renders need other seeds than the ceiling's, which start at ``seed``.
    reference = _true_features(true_renders(*model.size), prompts, seed + FixedSeed.UNSEEN_SCENES, classifier)
    copied = None if copies is None else copies.features
    report = GenerationReport(
        FORMAT, name, model.kind, model.identity, model.size, model.steps, model.guidance, seed, len(prompts),
        prompt_set, images.scores, ceilings, quality,
        kid_report(images.features, truth.features, copied, reference, classifier.identity),
        _planner_report(model, prompts, seed),
    )  # fmt: skip
    return report, images.results


def _measure(
    generate: ImageGenerator, prompts: Sequence[Prompt], seed: int, classifier: Classifier,
    track: Callable[[Iterable[JudgedImage]], Iterator[JudgedImage]],
) -> _Measured:  # fmt: skip
    """Judge an image for each prompt and compute its features; pixels stay in memory for one batch only."""
    rows: list[Tensor] = []

    def add_features(images: Images) -> None:
        rows.append(classifier.features(to_float_images(images)))

    judged = track(evaluate_prompts(generate, prompts, seed, on_batch=add_features))
    stride = sheet_stride(len(prompts))
    results = [one if index % stride == 0 else without_image(one) for index, one in enumerate(judged)]
    return _Measured(results, torch.cat(rows))


def _tracker(
    progress: Progress, total: int, description: str
) -> Callable[[Iterable[JudgedImage]], Iterator[JudgedImage]]:
    task = progress.add_task(description, total=total)

    def track(results: Iterable[JudgedImage]) -> Iterator[JudgedImage]:
        for result in results:
            progress.start()
            progress.advance(task)
            yield result

    return track


def _true_features(
    generate: ImageGenerator, prompts: Sequence[Prompt], seed: int, classifier: Classifier
) -> Tensor:
    """Features (N, F) of true renders of ``prompts`` that need no verdict."""
    batches = ((prompts[start : start + BATCH], seed + start) for start in range(0, len(prompts), BATCH))
    return torch.cat([classifier.features(to_float_images(generate(*batch))) for batch in batches])


def kid_report(
    images: Tensor, truth: Tensor, copies: Tensor | None, reference: Tensor, classifier: str
) -> KidReport | None:
    """KID of features (N, F) whose rows i belong to prompt i; None for a single prompt.

    The autoencoder's ``copies`` are compared with their originals ``truth``: their content is equal, so the standard
    error is a fraction of that of a comparison with ``reference``, which shows other scenes.
    """
    if len(reference) < 2:
        return None
    value = _kid_value(images, reference)
    return KidReport(
        **asdict(value),
        features=f"classifier {classifier}",
        floor=_kid_value(truth, reference),
        vae_round_trip=None if copies is None else _kid_value(copies, truth),
    )


def _kid_value(x: Tensor, y: Tensor) -> KidValue:
    distance = kid(x, y, paired=True)
    stderr = None if distance.stderr is None else round(distance.stderr, 6)
    return KidValue(round(distance.value, 6), stderr, distance.subsets)


def _planner_report(model: ModelUnderTest, prompts: Sequence[Prompt], seed: int) -> PlannerReport | None:
    """Planner metrics over the first prompts; None for a bundle."""
    if model.probe_planner is None:
        return None
    first = prompts[:PLANNER_PROMPTS]
    metrics = model.probe_planner(first, seed)
    return PlannerReport(
        len(first), round(metrics.mean_cosine, 4), round(metrics.self_conditioning_change, 5)
    )


def image_entry(result: JudgedImage) -> dict[str, object]:
    """JSON form of one judged image: the prompt, its seed and the verdict."""
    prompt = result.prompt
    return {
        "prompt": prompt.text, "category": prompt.category, "held_out": prompt.held_out, "seed": result.seed,
        **asdict(result.verdict),
    }  # fmt: skip
