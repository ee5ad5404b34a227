"""``--data stickers:FOLDER``: the promises of every image source, and what is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from microforge.data.order import PART
from microforge.data.stickers import image_source
from microforge.data.stickers.compositing import Layers, Pixels, Window, paint
from microforge.data.stickers.image_source import StickerSource
from microforge.data.stickers.splits import PICTURE_SHARE, SUBJECT_SHARE, held_out_picture, held_out_subject
from microforge.data.stickers.store import SpriteStore
from microforge.errors import DataError

SIZE = (64, 96)


@pytest.fixture
def source(sprites: Path, tmp_path_factory: pytest.TempPathFactory) -> StickerSource:
    return StickerSource(sprites, tmp_path_factory.getbasetemp() / "sticker-cache", Console(quiet=True))


def test_images_depend_on_seed_and_step_alone(source: StickerSource) -> None:
    first = source.images(1, 7, 6, SIZE, "cpu")
    source.images(1, 3, 6, SIZE, "cpu")
    assert torch.equal(source.images(1, 7, 6, SIZE, "cpu"), first)
    assert first.shape == (6, 3, *SIZE) and first.dtype == torch.float32
    assert 0.0 <= float(first.min()) and float(first.max()) <= 1.0
    assert not torch.equal(source.images(1, 8, 6, SIZE, "cpu"), first)
    assert not torch.equal(source.images(2, 7, 6, SIZE, "cpu"), first)


def test_rows_and_crops_are_those_of_the_whole_batch(source: StickerSource) -> None:
    for crop in (None, (32, 32)):
        whole = source.images(1, 2, 6, SIZE, "cpu", crop)
        assert torch.equal(source.images(1, 2, 6, SIZE, "cpu", crop, slice(2, 5)), whole[2:5])
        assert whole.shape[2:] == (crop or SIZE)


def test_every_crop_shows_a_sticker(source: StickerSource) -> None:
    crops = source.images(0, 0, 32, SIZE, "cpu", (32, 32))
    assert (crops.flatten(2).std(2).amax(1) > 0.01).float().mean() > 0.8  # the others lie within one disc


def test_examples_are_the_whole_plan_and_each_has_its_captions(source: StickerSource) -> None:
    plan = source.plan(PART + 5, 3, 4)
    batches = list(source.examples(plan, 1, SIZE, "cpu"))
    assert sum(len(images) for images, _ in batches) == 5
    for images, texts in batches:
        assert images.shape[1:] == (3, *SIZE) and all(len(row) == 3 for row in texts)
    again = list(source.examples(plan, 1, SIZE, "cpu"))
    assert torch.equal(batches[0][0], again[0][0]) and batches[0][1] == again[0][1]


def test_held_out_pictures_are_never_trained_on(
    source: StickerSource, sprites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_source, "ENOUGH_TO_HOLD_OUT", 4)
    monkeypatch.setattr(
        image_source, "held_out_picture", lambda subject, style: (subject, style) == ("subject-1", "wide")
    )
    monkeypatch.setattr(image_source, "held_out_subject", lambda subject: subject == "subject-2")
    held = StickerSource(sprites, tmp_path, Console(quiet=True))
    held.prepare(SIZE)
    names = [(held.stickers[row].subject, held.stickers[row].style) for row in held.held_pictures]
    assert names == [("subject-1", "wide")] and len(held.held_subjects) == 2
    used: set[int] = set()

    def watch(
        layers: Layers, store: SpriteStore, size: tuple[int, int], window: Window | None = None
    ) -> Pixels:
        used.update(place.row for place in layers.placements)
        return paint(layers, store, size, window)

    monkeypatch.setattr(image_source, "paint", watch)
    for step in range(8):
        held.images(0, step, 8, SIZE, "cpu")
    assert used and not used & {*held.held_pictures, *held.held_subjects}
    used.clear()
    held.sheet(3, SIZE, "cpu")
    assert used == {*held.held_pictures, *held.held_subjects}


def test_shares_of_the_splits_are_what_they_are_called_and_fixed() -> None:
    ids = [f"{number:x}" for number in range(4000)]
    assert np.mean([held_out_subject(one) for one in ids]) == pytest.approx(SUBJECT_SHARE, abs=0.01)
    assert np.mean([held_out_picture(one, "flat") for one in ids]) == pytest.approx(PICTURE_SHARE, abs=0.015)
    assert held_out_picture("1f412", "flat") != held_out_picture("1f412", "soft") or not held_out_picture(
        "1f412", "flat"
    )


def test_describe_counts_and_an_empty_folder_is_refused(source: StickerSource, tmp_path: Path) -> None:
    assert "8 stickers of 4 subjects in 2 styles (plain, wide), 0 held out" in source.describe()
    with pytest.raises(DataError, match="holds no sticker"):
        StickerSource(tmp_path, tmp_path, Console(quiet=True))
