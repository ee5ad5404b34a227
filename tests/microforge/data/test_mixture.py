"""Mixtures of image sources: shares, order, and what ``--data`` may say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from microforge.data.files.image_source import Augmentation
from microforge.data.image_source import ImageSource
from microforge.data.mixture import MixedSource, Part
from microforge.data.open import open_source
from microforge.data.order import PART
from microforge.data.stickers.image_source import StickerSource
from microforge.data.world.image_source import SceneSource
from microforge.errors import DataError, SpecError

SIZE = (32, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("a+b")  # a plus sign that separates nothing
    Image.new("RGBA", (16, 16), (250, 10, 10, 255)).save(place / "red-square.png")
    return place


def _open(data: str, cache: Path, augmentation: Augmentation | None = None) -> ImageSource:
    return open_source(data, cache, Console(quiet=True), augmentation)


def test_data_names_stickers_and_weighted_mixtures(folder: Path, tmp_path: Path) -> None:
    assert isinstance(_open(f"stickers:{folder}", tmp_path), StickerSource)
    mixed = _open(f"scenes+3*stickers:{folder}", tmp_path)
    assert isinstance(mixed, MixedSource)
    assert [(type(part.source), part.weight) for part in mixed.parts] == [
        (SceneSource, 1.0),
        (StickerSource, 3.0),
    ]
    assert mixed.describe().startswith("25% scenes: ") and "75% stickers:" in mixed.describe()


def test_data_refuses_weights_of_nothing_and_folders_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"weight of scenes is 0; allowed: above 0"):
        _open(f"0*scenes+stickers:{folder}", tmp_path)
    with pytest.raises(DataError, match="nowhere does not exist"):
        _open("scenes+stickers:nowhere", tmp_path)
    with pytest.raises(DataError, match=r"does not exist; allowed: scenes.*stickers:FOLDER"):
        _open("scenes+photos", tmp_path)
    with pytest.raises(SpecError, match="flip and random_crop belong"):
        _open(f"stickers:{folder}", tmp_path, Augmentation(flip=True))


def test_every_batch_holds_the_shares_and_no_step_drifts(folder: Path) -> None:
    mixed = MixedSource([Part(SceneSource(), 1.0), Part(SceneSource(), 2.0), Part(SceneSource(), 1.0)])
    for count in (1, 3, 8, 10):
        totals = [0, 0, 0]
        for step in range(20):
            shares = mixed.shares(step, count)
            assert sum(shares) == count and min(shares) >= 0
            totals = [total + share for total, share in zip(totals, shares, strict=True)]
        assert all(
            abs(total - 20 * count * part) <= 2 for total, part in zip(totals, (0.25, 0.5, 0.25), strict=True)
        )


def test_rows_are_those_of_the_whole_batch_across_sources(folder: Path, tmp_path: Path) -> None:
    mixed = _open(f"scenes+stickers:{folder}", tmp_path)
    whole = mixed.images(3, 1, 8, SIZE, "cpu", (16, 16))
    assert whole.shape == (8, 3, 16, 16)
    assert isinstance(mixed, MixedSource)
    scenes = mixed.shares(1, 8)[0]
    assert torch.equal(whole[:scenes], SceneSource().images(3, 1, scenes, SIZE, "cpu", (16, 16)))
    for rows in (slice(0, 3), slice(3, 6), slice(5, 8)):
        assert torch.allclose(mixed.images(3, 1, 8, SIZE, "cpu", (16, 16), rows), whole[rows], atol=1e-5)


def test_parts_of_the_enumeration_belong_to_the_sources_by_turns(folder: Path, tmp_path: Path) -> None:
    mixed = _open(f"scenes+stickers:{folder}", tmp_path)
    plan = mixed.plan(3 * PART + 2, 2, 5)
    owners = []
    for part in range(plan.parts):
        images, texts = next(iter(mixed.examples(plan, part, SIZE, "cpu")))
        owners.append("stickers" if all("red square" in row[0] for row in texts) else "scenes")
        assert len(images) == len(texts) and len(texts[0]) == 2
    assert sorted(owners) == ["scenes", "scenes", "stickers", "stickers"]
    last = list(mixed.examples(plan, 3, SIZE, "cpu"))
    assert sum(len(images) for images, _ in last) == 2


def test_sheet_and_prompts_show_some_of_each_and_the_fingerprint_follows_weights(
    folder: Path, tmp_path: Path
) -> None:
    mixed = _open(f"scenes+7*stickers:{folder}", tmp_path)
    assert mixed.sheet(8, SIZE, "cpu").shape == (3, 3, *SIZE)  # two scenes, and the only sticker there is
    assert mixed.prompts(8)[0] == "a red circle" and "a red square" in mixed.prompts(8)
    assert mixed.fingerprint != _open(f"scenes+6*stickers:{folder}", tmp_path).fingerprint
