"""The detector names the stickers of an image, and GenEval's prompts are judged by what it finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from rich.console import Console

from microforge.data.stickers.image_source import StickerSource
from microforge.errors import DataError
from microforge_benchmarks.stickers.detector import StickerDetector
from microforge_benchmarks.stickers.geneval import (
    is_followed,
    known_classes,
    read_prompts,
    scored,
    split_prompts,
    true_images,
)
from microforge_benchmarks.stickers.retrieval import evaluate_stickers

_SHAPES = {
    "cat": [(5, 5), (30, 20), (60, 5), (60, 60), (5, 60)], "dog": [(32, 2), (62, 32), (32, 62), (2, 32)],
    "bus": [(2, 20), (62, 20), (62, 44), (2, 44)],
}  # fmt: skip
_LINES = (
    {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"},
    {"tag": "counting", "include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}], "prompt": "a photo of two dogs"},
    {"tag": "position", "include": [{"class": "bus", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}], "prompt": "a photo of a dog left of a bus"},
    {"tag": "colors", "include": [{"class": "zebra", "count": 1, "color": "red"}], "prompt": "a photo of a red zebra"},
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> StickerSource:
    folder = tmp_path_factory.mktemp("set")
    for (name, corners), color in zip(_SHAPES.items(), ("red", "blue", "green"), strict=True):
        image = Image.new("RGBA", (64, 64))
        ImageDraw.Draw(image).polygon(corners, fill=color)
        image.save(folder / f"{name}.png")
    made = StickerSource(folder, tmp_path_factory.mktemp("cache"), Console(quiet=True))
    made.prepare((128, 128))
    return made


def test_stickers_are_retrieved_and_noise_is_not(source: StickerSource) -> None:
    def noise(prompts, seed):  # type: ignore[no-untyped-def]
        return np.random.default_rng(seed).integers(0, 256, (len(prompts), 128, 128, 3), np.uint8)

    report = evaluate_stickers("noise", noise, source, (128, 128), 12, 0)
    assert report.true_renders.top1.accuracy == 1.0 and report.true_renders.nearest_similarity > 0.95
    assert report.scores.top1.accuracy == 0.0 and report.scores.top5.accuracy == 0.0
    assert report.subjects == 3 and report.vae_round_trip is None


def test_geneval_prompts_are_read_split_and_judged(source: StickerSource, tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in _LINES))
    prompts = read_prompts(file)
    known = known_classes(source.world, ("cat", "dog", "bus", "zebra"))
    asked, reasons = split_prompts(prompts, known)
    assert [item.text for item in asked] == ["a cat", "two dogs", "a dog left of a bus"]
    assert reasons == {"no sticker shows a zebra": 1}
    detector = StickerDetector(source.stickers, source.store)
    images = true_images(asked, source.world, known, (128, 128), 0)
    assert scored(asked, list(images), detector, known).overall.accuracy == 1.0
    mirrored = np.ascontiguousarray(images[2][:, ::-1])
    assert not is_followed(
        asked[2], detector.objects(mirrored), detector, known
    )  # the dog is right of the bus
    assert not is_followed(asked[1], detector.objects(images[0]), detector, known)


@pytest.mark.parametrize("text", ["{", '{"prompt": "a cat"}', ""])
def test_a_file_that_is_not_genevals_is_refused_by_its_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=r"no GenEval prompt|holds no prompt"):
        read_prompts(file)
