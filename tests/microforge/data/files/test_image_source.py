"""Photos as training data: an order that depends on seed and step alone, and nothing in the files is fatal."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from microforge.data.files import image_source as photos_module
from microforge.data.files.captioned import CaptionedImage, Listing
from microforge.data.files.decode import Pixels, decode_image
from microforge.data.files.image_source import Augmentation, PhotoSource
from microforge.data.order import PART, epoch_rows
from microforge.errors import DataError

SIZE = (16, 16)


def _listing(folder: Path, count: int, broken: tuple[int, ...] = (), width: int = 16) -> Listing:
    """``count`` images whose first channel is their number, in one file; the left edge is white."""
    images = []
    data = b""
    for number in range(count):
        image = Image.new("RGB", (width, 16), (number, 0, 0))
        image.paste("white", (0, 0, width // 8, 16))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        encoded = b"broken" if number in broken else stream.getvalue()
        captions = tuple(f"number {number}, caption {i}" for i in range(1 + number % 3))
        images.append(CaptionedImage(f"{number:04}.png", captions, folder / "all", len(data), len(encoded)))
        data += encoded
    (folder / "all").write_bytes(data)
    return Listing(tuple(images), (), "a fingerprint")


def _source(listing: Listing, ram: bool = True, **changes: bool) -> PhotoSource:
    budget = 1 << 20 if ram else 0
    return PhotoSource("photos", listing, Console(quiet=True), Augmentation(**changes), budget)


def _numbers(images: torch.Tensor) -> list[int]:
    return [round(float(image[0, 8, 8] * 255)) for image in images]


def test_images_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    listing = _listing(tmp_path, 30)
    first, second = _source(listing), _source(listing, ram=False)
    steps = [first.images(3, step, 8, SIZE, "cpu") for step in range(6)]
    for step in (5, 0, 3):
        assert torch.equal(second.images(3, step, 8, SIZE, "cpu"), steps[step])
    assert not torch.equal(first.images(4, 0, 8, SIZE, "cpu"), steps[0])
    assert steps[0].shape == (8, 3, 16, 16) and steps[0].dtype == torch.float32
    assert steps[0].is_contiguous(), "not in channels_last, which convolutions would keep"
    assert 0.0 <= float(steps[0].min()) and float(steps[0].max()) <= 1.0


def test_images_of_two_batch_shards_are_the_rows_of_the_whole(tmp_path: Path) -> None:
    listing = _listing(tmp_path, 10, broken=(3,), width=40)
    for ram in (True, False):
        source = _source(listing, ram, flip=True, random_crop=True)
        whole = source.images(0, 2, 8, SIZE, "cpu", crop=(8, 8))
        pieces = [source.images(0, 2, 8, SIZE, "cpu", (8, 8), slice(i, i + 4)) for i in (0, 4)]
        assert torch.equal(torch.cat(pieces), whole)


def test_every_epoch_shows_each_image_once_in_another_order(tmp_path: Path) -> None:
    source = _source(_listing(tmp_path, 12))
    steps = [_numbers(source.images(0, step, 4, SIZE, "cpu")) for step in range(6)]
    epochs = [[*steps[first], *steps[first + 1], *steps[first + 2]] for first in (0, 3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs) and epochs[0] != epochs[1]


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 60))
def test_epoch_rows_are_the_same_however_batches_are_cut(
    seed: int, step: int, count: int, total: int
) -> None:
    pair = np.concatenate([epoch_rows(seed, 2 * step + i, count, total) for i in (0, 1)])
    assert (pair == epoch_rows(seed, step, 2 * count, total)).all()
    assert pair.min() >= 0 and pair.max() < total


def test_captions_with_left_and_right_stay_true_unless_flips_are_requested(tmp_path: Path) -> None:
    listing = _listing(tmp_path, 20, width=40)
    plain = _source(listing).images(0, 0, 20, SIZE, "cpu")
    assert float(plain[:, 1].max()) == 0.0, "the centre crop has neither edge"
    for changes, edges in (({"random_crop": True}, "left"), ({"random_crop": True, "flip": True}, "both")):
        green = _source(listing, **changes).images(0, 0, 20, SIZE, "cpu")[:, 1, 8]
        assert bool((green[:, 0] > 0.5).any()), "a crop reaches the left edge"
        assert bool((green[:, -1] > 0.5).any()) == (edges == "both")


def test_broken_images_are_left_out_and_named(tmp_path: Path) -> None:
    listing = _listing(tmp_path, 6, broken=(1, 4))
    for ram in (True, False):
        source = _source(listing, ram)
        seen = {number for step in range(6) for number in _numbers(source.images(0, step, 4, SIZE, "cpu"))}
        assert seen == {0, 2, 3, 5}
        assert [item.name for item in source.skipped] == ["0001.png", "0004.png"]
        assert source.skipped[0].reason.startswith("is a text file; allowed: JPEG")


def test_a_set_without_one_good_image_is_a_data_error(tmp_path: Path) -> None:
    listing = _listing(tmp_path, 3, broken=(0, 1, 2))
    with pytest.raises(DataError, match=r"none of the 3 images in photos can be used \(0000\.png: is a text"):
        _source(listing).prepare(SIZE)
    with pytest.raises(DataError, match="3 images in a row of photos cannot be decoded"):
        _source(listing, ram=False).images(0, 0, 1, SIZE, "cpu")


def test_an_image_that_vanishes_while_training_is_replaced(tmp_path: Path) -> None:
    listing = _listing(tmp_path, 4)
    source = _source(listing, ram=False)
    (tmp_path / "all").write_bytes((tmp_path / "all").read_bytes()[: listing.images[3].offset + 3])
    assert set(_numbers(source.images(0, 0, 8, SIZE, "cpu"))) == {0, 1, 2}
    assert "bytes expected, got 3" in source.skipped[0].reason


def test_sheet_images_are_never_trained_on_where_there_are_enough(tmp_path: Path) -> None:
    source = _source(_listing(tmp_path, 120))
    held = set(_numbers(source.sheet(8, SIZE, "cpu")))
    assert len(held) == 8 and "8 held out for sample sheets" in source.describe()
    shown = {number for step in range(3) for number in _numbers(source.images(0, step, 112, SIZE, "cpu"))}
    plan = source.plan(0, 0, 0)
    encoded = {n for images, _ in source.examples(plan, 0, SIZE, "cpu") for n in _numbers(images)}
    measured = {n for images in source.statistics(500, SIZE, "cpu") for n in _numbers(images)}
    assert shown == encoded == measured == set(range(120)) - held
    few = _source(_listing(tmp_path, 20))
    assert _numbers(few.sheet(8, SIZE, "cpu")) == list(range(8)) and "show training images" in few.describe()


def test_held_out_images_stay_held_out_when_others_are_added(tmp_path: Path) -> None:
    before = set(_numbers(_source(_listing(tmp_path, 150)).sheet(8, SIZE, "cpu")))
    after = set(_numbers(_source(_listing(tmp_path, 160)).sheet(8, SIZE, "cpu")))
    assert len(before & after) >= 6


def test_examples_come_in_parts_with_equally_many_captions(tmp_path: Path) -> None:
    count = PART + 13
    images = _listing(tmp_path, 5).images
    many = tuple(images[number % 5] for number in range(count))
    source = _source(Listing(many, (), ""), ram=False)
    plan = source.plan(7, 7, 7)
    total = count - photos_module.HELD_OUT
    assert (plan.images, plan.captions, plan.parts) == (total, 3, -(-total // PART))
    sizes = [
        sum(len(images) for images, _ in source.examples(plan, part, SIZE, "cpu"))
        for part in range(plan.parts)
    ]
    assert sum(sizes) == total and sizes[0] == min(PART, total)
    assert all(len(texts) == 3 for _, captions in source.examples(plan, 0, SIZE, "cpu") for texts in captions)


def test_examples_with_flip_hold_both_sides_and_change_the_fingerprint(tmp_path: Path) -> None:
    listing = _listing(tmp_path, 3, broken=(1,))
    plain, flipped = _source(listing), _source(listing, flip=True)
    plan = flipped.plan(0, 0, 0)
    [(images, captions)] = list(flipped.examples(plan, 0, SIZE, "cpu"))
    assert len(images) == 4 and torch.equal(images[1], images[0].flip(-1))
    assert captions[0] == captions[1] and captions[0] != captions[2]
    assert plain.fingerprint != flipped.fingerprint
    assert _source(listing, random_crop=True).fingerprint == plain.fingerprint, "the cache keeps the centre"


def test_plan_and_fingerprint_do_not_depend_on_what_was_decoded(tmp_path: Path) -> None:
    source = _source(_listing(tmp_path, 8, broken=(2,)))
    before = source.plan(1, 1, 1), source.fingerprint, source.prompts(12)
    source.prepare(SIZE)
    assert (source.plan(1, 1, 1), source.fingerprint, source.prompts(12)) == before
    [(images, _)] = list(source.examples(before[0], 0, SIZE, "cpu"))
    assert _numbers(images) == [0, 1, 3, 4, 5, 6, 7]


def test_prompts_are_the_first_captions_without_duplicates(tmp_path: Path) -> None:
    images = _listing(tmp_path, 3).images
    source = _source(Listing((images[0], images[0], *images), (), ""))
    assert source.prompts(2) == ("number 0, caption 0", "number 1, caption 0")


def test_at_most_a_few_photos_are_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def counted(data: bytes, size: tuple[int, int], spare: bool = False) -> Pixels:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        pixels = decode_image(data, size, spare)
        with lock:
            running -= 1
        return pixels

    monkeypatch.setattr(photos_module, "decode_image", counted)
    monkeypatch.setattr(photos_module, "_workers", lambda: 3)
    _source(_listing(tmp_path, 60), ram=False).images(0, 0, 60, SIZE, "cpu")
    assert 1 <= most <= 3


def test_a_set_in_memory_is_decoded_once_per_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    def counted(data: bytes, size: tuple[int, int], spare: bool = False) -> Pixels:
        calls.append(size)
        return decode_image(data, size, spare)

    monkeypatch.setattr(photos_module, "decode_image", counted)
    source = _source(_listing(tmp_path, 5))
    for size in (SIZE, SIZE, (8, 8)):
        source.images(0, 0, 4, size, "cpu")
        source.sheet(2, size, "cpu")
    assert calls == [SIZE] * 5 + [(8, 8)] * 5
