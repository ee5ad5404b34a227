"""What ``mf-eval --stickers`` and ``--geneval`` do: open the set, generate, judge, and print one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from microforge.data.stickers.image_source import StickerSource
from microforge.evaluation.scores import Accuracy
from microforge_benchmarks.evaluate.model_under_test import ModelUnderTest
from microforge_benchmarks.evaluate.progress import image_progress
from microforge_benchmarks.stickers.detector import StickerDetector
from microforge_benchmarks.stickers.geneval import (
    TITLE,
    GenEvalReport,
    as_prompt,
    known_classes,
    read_prompts,
    scored,
    split_prompts,
    true_images,
)
from microforge_benchmarks.stickers.retrieval import StickerReport, evaluate_stickers

_BATCH = 16


def stickers_report(
    model: ModelUnderTest, name: str, folder: Path, cache: Path, prompts: int, seed: int
) -> StickerReport:
    """Retrieval of asked stickers, printed as a table."""
    source = StickerSource(folder, cache, Console(stderr=True))
    with image_progress() as progress:
        task = progress.add_task("stickers", total=prompts)
        report = evaluate_stickers(
            name, model.generate, source, model.size, prompts, seed, model.round_trip,
            lambda count: (progress.start(), progress.advance(task, count))[0],  # type: ignore[func-returns-value]
        )  # fmt: skip
    rows = {
        "model": report.scores,
        "true renders": report.true_renders,
        "VAE round trip": report.vae_round_trip,
    }
    table = Table(title=f"top-1 of {report.subjects} subjects, {report.prompts} prompts")
    for title in ("", "top-1", "top-5", "seen", "held out", "nearest training picture"):
        table.add_column(title)
    for label, scores in rows.items():
        if scores is not None:
            parts = (scores.top1, scores.top5, scores.seen, scores.held_out)
            table.add_row(label, *map(_percent, parts), f"{scores.nearest_similarity:.3f}")
    Console(stderr=True).print(table)
    return report


def geneval_report(
    model: ModelUnderTest, name: str, file: Path, folder: Path, cache: Path, seed: int
) -> GenEvalReport:
    """GenEval's prompts that the sticker set knows, printed as a table."""
    every = read_prompts(file)
    source = StickerSource(folder, cache, Console(stderr=True))
    source.prepare(model.size)
    detector, world = StickerDetector(source.stickers, source.store), source.world
    known = known_classes(
        world, list(dict.fromkeys(item.name for prompt in every for item in prompt.include))
    )
    asked, reasons = split_prompts(every, known)
    images = []
    with image_progress() as progress:
        task = progress.add_task("GenEval prompts", total=len(asked))
        for first in range(0, len(asked), _BATCH):
            batch = asked[first : first + _BATCH]
            images += list(model.generate([as_prompt(prompt) for prompt in batch], seed + first))
            progress.start()
            progress.advance(task, len(batch))

    def ceiling(trip: Callable[..., object] | None) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        parts = [
            true_images(asked[first : first + _BATCH], world, known, model.size, seed, trip)  # type: ignore[arg-type]
            for first in range(0, len(asked), _BATCH)
        ]
        return [image for part in parts for image in part]

    trip = None if model.round_trip is None else scored(asked, ceiling(model.round_trip), detector, known)
    report = GenEvalReport(
        TITLE, name, len(asked), len(every), scored(asked, images, detector, known),
        scored(asked, ceiling(None), detector, known), trip, reasons,
    )  # fmt: skip
    table = Table(title=f"{TITLE}: {report.asked} of {report.total} prompts")
    for title in ("", "model", "true renders", "VAE round trip"):
        table.add_column(title)
    columns = (report.scores, report.true_renders, report.vae_round_trip)
    table.add_row("overall", *("-" if item is None else _percent(item.overall) for item in columns))
    for category in report.scores.categories:
        table.add_row(
            category, *("-" if item is None else _percent(item.categories[category]) for item in columns)
        )
    console = Console(stderr=True)
    console.print(table)
    for reason, count in report.left_out.items():
        console.print(f"left out: {count} prompts, {reason}", highlight=False)
    return report


def _percent(accuracy: Accuracy) -> str:
    if accuracy.accuracy is None:
        return "-"
    return f"{100 * accuracy.accuracy:.1f} % ({100 * accuracy.low:.0f} to {100 * accuracy.high:.0f})"
