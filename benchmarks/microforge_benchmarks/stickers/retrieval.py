"""Does an image show the sticker that was asked for? Retrieval of its subject among all, by style and language.

Letters: B images, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from microforge.data.stickers.captions import canonical_caption
from microforge.data.stickers.grammars import GRAMMARS
from microforge.data.stickers.image_source import StickerSource
from microforge.data.stickers.scenes import make_sticker
from microforge.data.world.captions import Prompt
from microforge.data.world.scenes import COLORS, Scene
from microforge.evaluation.generation import ImageGenerator, RoundTrip, to_uint8_images
from microforge.evaluation.kid import Kid, kid
from microforge.evaluation.scores import Accuracy, accuracy_of
from microforge_benchmarks.stickers.detector import Floats, StickerDetector, whole_object

Images = NDArray[np.uint8]
_BATCH = 16


@dataclass(frozen=True)
class StickerPrompt:
    """A prompt for one sticker: its picture ``row``, the caption's language, and whether training hides the picture."""

    text: str
    row: int
    subject: str
    style: str
    language: str
    held_out: bool


@dataclass(frozen=True)
class RetrievalScores:
    """Top-1 and top-5 retrieval of the asked subject among all subjects of the set.

    Attributes:
        top1: the nearest picture shows the subject.
        top5: one of the five nearest subjects is it.
        styles: top-1 by the style that was asked.
        languages: top-1 by the prompt's language.
        seen: top-1 over pictures that training shows.
        held_out: top-1 over pictures (a subject in a style) that it never shows.
        nearest_similarity: mean similarity, -1 to 1, with the nearest picture that training shows: 1 is a copy.
    """

    top1: Accuracy
    top5: Accuracy
    styles: dict[str, Accuracy]
    languages: dict[str, Accuracy]
    seen: Accuracy
    held_out: Accuracy
    nearest_similarity: float


@dataclass(frozen=True)
class StickerReport:
    """Scores of a model with the detector's ceilings: true pictures, before and after the autoencoder's round trip.

    ``kid`` compares the descriptions of the model's objects with those of the asked pictures.
    """

    model: str
    subjects: int
    prompts: int
    scores: RetrievalScores
    true_renders: RetrievalScores
    vae_round_trip: RetrievalScores | None
    kid: Kid


def sticker_prompts(
    source: StickerSource, count: int, seed: int = 0, languages: Sequence[str] = tuple(GRAMMARS)
) -> tuple[StickerPrompt, ...]:
    """Prompts for single stickers in a stated style: half of them of seen pictures in English.

    The others cycle over held-out pictures in English and seen pictures in the other languages.
    """
    world, rng = source.world, np.random.default_rng(seed)
    every = [row for styles in world.rows.values() for row in styles.values()]
    seen = [row for row in every if not _is_hidden(source, row)]
    hidden = [row for row in every if _is_hidden(source, row)]
    others = [language for language in languages if language != "en"]
    prompts = []
    for index in range(count):
        hide = index % 4 == 1 and bool(hidden)
        language = others[index // 4 % len(others)] if index % 4 == 3 and others else "en"
        row = int(rng.choice(hidden if hide else seen))
        item = world.stickers[row]
        thing = make_sticker(world, rng, row, None, "large", (0.5, 0.5), 0.42)
        scene = Scene("white", COLORS["white"], (thing,), "portrait", None)
        text = canonical_caption(world, scene, language, style=True)
        prompts.append(StickerPrompt(text, row, item.subject, item.style, language, hide))
    return tuple(prompts)


def _is_hidden(source: StickerSource, row: int) -> bool:
    """Whether training never shows picture ``row``."""
    item = source.stickers[row]
    return source.world.hides_picture(item.subject, item.style)


def true_stickers(
    source: StickerSource, size: tuple[int, int], round_trip: RoundTrip | None = None
) -> Callable[[Sequence[StickerPrompt]], Images]:
    """Maker of the ceilings' images (B, H, W, 3): the asked pictures themselves."""

    def make(prompts: Sequence[StickerPrompt]) -> Images:
        images = source.portraits([prompt.row for prompt in prompts], size, "cpu")
        return to_uint8_images(images if round_trip is None else round_trip(images))

    return make


def describe_all(
    make: Callable[[Sequence[StickerPrompt], int], Images], prompts: Sequence[StickerPrompt],
    on_images: Callable[[int], None] | None = None,
) -> list[Floats | None]:  # fmt: skip
    """The description of the object of each prompt's image; ``make`` gets a batch of prompts and their first index."""
    descriptions: list[Floats | None] = []
    for first in range(0, len(prompts), _BATCH):
        batch = prompts[first : first + _BATCH]
        descriptions += [whole_object(image) for image in make(batch, first)]
        if on_images is not None:
            on_images(len(batch))
    return descriptions


def retrieval_scores(
    detector: StickerDetector, prompts: Sequence[StickerPrompt], descriptions: Sequence[Floats | None],
    trained: NDArray[np.bool_],
) -> RetrievalScores:  # fmt: skip
    """Scores of one image per prompt; ``trained`` (N,) says which pictures of the detector training shows."""
    ranked = [[] if item is None else detector.ranked_subjects(item) for item in descriptions]
    first = [
        bool(names) and names[0] == prompt.subject for names, prompt in zip(ranked, prompts, strict=True)
    ]
    five = [prompt.subject in names for names, prompt in zip(ranked, prompts, strict=True)]
    similar = [float(detector.similarities(item)[trained].max()) for item in descriptions if item is not None]

    def part(keep: Callable[[StickerPrompt], bool]) -> Accuracy:
        return accuracy_of([hit for hit, prompt in zip(first, prompts, strict=True) if keep(prompt)])

    styles = dict.fromkeys(prompt.style for prompt in prompts)
    languages = dict.fromkeys(prompt.language for prompt in prompts)
    return RetrievalScores(
        accuracy_of(first), accuracy_of(five),
        {name: part(lambda prompt, name=name: prompt.style == name) for name in styles},  # type: ignore[misc]
        {name: part(lambda prompt, name=name: prompt.language == name) for name in languages},  # type: ignore[misc]
        part(lambda prompt: not prompt.held_out), part(lambda prompt: prompt.held_out),
        round(float(np.mean(similar)), 4) if similar else -1.0,
    )  # fmt: skip


def evaluate_stickers(
    name: str, generate: ImageGenerator, source: StickerSource, size: tuple[int, int], count: int, seed: int,
    round_trip: RoundTrip | None = None, on_images: Callable[[int], None] | None = None,
) -> StickerReport:  # fmt: skip
    """Generate an image for each of ``count`` prompts and retrieve its subject; image i has ``seed`` + i."""
    source.prepare(size)
    detector = StickerDetector(source.stickers, source.store)
    prompts = sticker_prompts(source, count, seed)
    trained = np.array([not _is_hidden(source, int(row)) for row in detector.rows])
    true = true_stickers(source, size)
    references = describe_all(lambda batch, first: true(batch), prompts)

    def sample(batch: Sequence[StickerPrompt], first: int) -> Images:
        asked = [Prompt(item.text, "single object", None, (), None, None, item.held_out) for item in batch]
        return generate(asked, seed + first)

    found = describe_all(sample, prompts, on_images)
    trip = None
    if round_trip is not None:
        coded = true_stickers(source, size, round_trip)
        trip = retrieval_scores(
            detector, prompts, describe_all(lambda batch, first: coded(batch), prompts), trained
        )
    return StickerReport(
        name, len(set(detector.subjects)), len(prompts), retrieval_scores(detector, prompts, found, trained),
        retrieval_scores(detector, prompts, references, trained), trip, _distance(found, references),
    )  # fmt: skip


def _distance(found: Sequence[Floats | None], references: Sequence[Floats | None]) -> Kid:
    """KID of descriptions; an image without an object is described by zeros."""
    width = next((len(item) for item in (*found, *references) if item is not None), 1)
    rows = [
        torch.from_numpy(np.stack([np.zeros(width, np.float32) if item is None else item for item in part]))
        for part in (found, references)
    ]
    return kid(rows[0] * width**0.5, rows[1] * width**0.5, paired=True)
