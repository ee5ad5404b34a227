"""Mattes: a plain background goes, at soft edges, and everything else stays."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from microforge_runtimes.images.matte import connected, cut_out, transparent, without_background

SIDE = 96


def _disc(
    color: tuple[int, int, int], background: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An anti-aliased disc on a background, (h, w, 3), and its true alpha (h, w)."""
    large = Image.new("L", (SIDE * 8, SIDE * 8))
    ImageDraw.Draw(large).ellipse((160, 160, 600, 600), fill=255)
    alpha = large.resize((SIDE, SIDE), Image.Resampling.BOX)
    image = Image.new("RGB", (SIDE, SIDE), background)
    image.paste(color, (0, 0, SIDE, SIDE), alpha)
    return np.asarray(image, np.uint8), np.asarray(alpha, np.uint8)


@pytest.mark.parametrize("background", [(255, 255, 255), (20, 120, 60)])
def test_the_matte_of_a_disc_is_near_to_its_true_alpha(background: tuple[int, int, int]) -> None:
    pixels, alpha = _disc((220, 30, 40), background)
    matte = cut_out(pixels)
    assert matte.is_cut
    error = np.abs(matte.pixels[..., 3].astype(float) - alpha).mean() / 255
    assert error < 0.01
    visible = matte.pixels[matte.pixels[..., 3] > 0][:, :3].astype(int)
    assert np.abs(visible - (220, 30, 40)).max() <= 2  # none of the background's colour is left


def test_background_that_an_object_encloses_stays() -> None:
    pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
    pixels[20:76, 20:76] = (30, 30, 200)
    pixels[40:56, 40:56] = 255
    alpha = cut_out(pixels).pixels[..., 3]
    assert alpha[48, 48] == 255 and alpha[2, 2] == 0


def test_specks_beside_an_object_are_removed() -> None:
    pixels, _ = _disc((220, 30, 40), (255, 255, 255))
    pixels = pixels.copy()
    pixels[4, 4] = 0
    assert cut_out(pixels).pixels[4, 4, 3] == 0


def test_an_image_without_plain_background_or_object_stays_opaque() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    for pixels in (noise, np.full((SIDE, SIDE, 3), 200, np.uint8)):
        matte = cut_out(pixels)
        assert not matte.is_cut and (matte.pixels[..., 3] == 255).all()
        assert (matte.pixels[..., :3] == pixels).all()


def test_alpha_of_the_model_comes_before_the_matte_and_loses_the_background() -> None:
    pixels, alpha = _disc((220, 30, 40), (20, 120, 60))
    matte = transparent(pixels, alpha)
    assert matte.is_cut and (matte.pixels[..., 3] == alpha).all()
    strong = without_background(pixels, alpha)[alpha > 60][:, :3].astype(int)
    assert np.abs(strong - (220, 30, 40)).max() <= 6


def test_connected_parts_agree_with_a_flood_fill() -> None:
    area = np.random.default_rng(1).random((40, 30)) < 0.6
    seeds = np.zeros_like(area)
    seeds[0] = True
    expected = area & seeds
    while True:
        wide = np.pad(expected, 1)
        grown = area & (
            wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
        )
        if (grown == expected).all():
            break
        expected = grown
    assert (connected(area, seeds) == expected).all()
