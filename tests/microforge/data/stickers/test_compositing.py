"""Decoded stickers and painting: boxes, any window the same pixels, colours turned, nothing outside its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from microforge.data.stickers.catalogue import read_catalogue
from microforge.data.stickers.compositing import (
    Background,
    Layers,
    Placement,
    Window,
    paint,
    sprite_part,
)
from microforge.data.stickers.recolor import Recolor
from microforge.data.stickers.store import SpriteStore, decode_sprite, open_store, visible_box
from microforge.errors import DataError

WHITE = Background((1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def store(sprites: Path, tmp_path_factory: pytest.TempPathFactory) -> SpriteStore:
    cache = tmp_path_factory.mktemp("cache")
    return open_store(sprites, read_catalogue(sprites), cache, Console(quiet=True), side=64)


def test_store_fits_pictures_into_squares_and_finds_what_can_be_seen(store: SpriteStore) -> None:
    assert store.pixels.shape == (8, 64, 64, 4)
    assert tuple(store.boxes[0]) == (0, 0, 64, 64)
    left, top, right, bottom = store.boxes[4]  # the wide discs come after the plain ones
    assert (left, right) == (0, 64) and 14 <= top <= 17 and 47 <= bottom <= 50


def test_store_is_read_back_from_its_file_and_made_anew_for_other_pictures(
    sprites: Path, tmp_path: Path
) -> None:
    stickers = read_catalogue(sprites)
    first = open_store(sprites, stickers, tmp_path, Console(quiet=True), side=32)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = open_store(sprites, stickers, tmp_path, Console(quiet=True), side=32)
    assert np.array_equal(first.pixels, again.pixels) and len(times) == 2
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    open_store(sprites, stickers[:4], tmp_path, Console(quiet=True), side=32)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_broken_picture_is_skipped_by_name_and_a_set_of_them_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "broken.png").write_bytes(b"no picture")
    stickers = read_catalogue(tmp_path / "set")
    with pytest.raises(DataError, match=r"none of the 1 pictures.*broken.png"):
        open_store(tmp_path / "set", stickers, tmp_path, Console(quiet=True))
    Image.new("RGBA", (8, 8), "red").save(tmp_path / "set" / "whole.png")
    store = open_store(tmp_path / "set", read_catalogue(tmp_path / "set"), tmp_path, Console(quiet=True))
    assert [item.name for item in store.skipped] == ["broken.png"] and store.usable(1) and not store.usable(0)


def test_premultiplied_colours_never_exceed_the_coverage(tmp_path: Path) -> None:
    image = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    image.paste((255, 0, 0, 128), (4, 4, 12, 12))
    image.save(tmp_path / "half.png")
    pixels = decode_sprite(tmp_path / "half.png", 16)
    assert visible_box(pixels) == (4, 4, 12, 12) and (pixels[..., :3] <= pixels[..., 3:]).all()
    assert tuple(pixels[8, 8]) == (128, 0, 0, 128) and not pixels[0, 0].any()


def test_a_placement_covers_its_box_and_nothing_else(store: SpriteStore) -> None:
    image = paint(Layers(WHITE, (Placement(0, 10, 20, 30, 30),)), store, (80, 60))
    assert image.shape == (80, 60, 3) and image.dtype == np.float32
    assert np.allclose(image[35, 25], np.array([220, 20, 30]) / 255.0, atol=0.01)
    outside = np.ones((80, 60), bool)
    outside[20:50, 10:40] = False
    assert (image[outside] == 1.0).all() and (image[20:50, 10:40] < 0.99).any(-1).mean() > 0.7


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_window_shows_the_same_pixels_as_the_whole_image(store: SpriteStore, mirrored: bool) -> None:
    places = (
        Placement(4, -6, 8, 50, 25, mirrored, Recolor(turn=1.0)),
        Placement(1, 30, 30, 33, 33, mirrored),
    )
    layers = Layers(Background((0.1, 0.5, 0.9), (0.9, 0.2, 0.1), 0.7), places)
    whole = paint(layers, store, (64, 72))
    for window in (Window(0, 0, 40, 40), Window(17, 9, 32, 48), Window(40, 30, 32, 34)):
        part = whole[window.top : window.top + window.height, window.left : window.left + window.width]
        assert np.allclose(paint(layers, store, (64, 72), window), part, atol=2.0 / 255.0)


def test_a_mirrored_placement_is_the_mirror_image(tmp_path: Path) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 255, 255))
    image.paste((255, 0, 0, 255), (0, 0, 8, 16))
    image.save(tmp_path / "two.png")
    store = open_store(tmp_path, read_catalogue(tmp_path), tmp_path / "cache", Console(quiet=True), side=16)
    plain, mirrored = (
        paint(Layers(WHITE, (Placement(0, 0, 0, 16, 16, turn),)), store, (16, 16)) for turn in (False, True)
    )
    assert np.allclose(plain[:, ::-1], mirrored, atol=0.01) and not np.allclose(plain, mirrored, atol=0.5)


def test_nothing_of_a_placement_outside_the_window_is_painted(store: SpriteStore) -> None:
    assert sprite_part(Placement(0, 50, 50, 10, 10), store, Window(0, 0, 40, 40)) is None
