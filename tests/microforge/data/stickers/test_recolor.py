"""Stickers in other colours: what is recolorable, what it becomes, and what stays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from microforge.data.stickers.recolor import Recolor, profile, recolor_to, recolored
from microforge.data.world.scenes import COLORS

HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")


def _picture(
    *parts: tuple[tuple[float, float, float], float],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A picture with columns of each colour, as wide as its share says."""
    pixels = np.zeros((60, 60, 4), np.uint8)
    left = 0
    for rgb, share in parts:
        right = left + round(60 * share)
        pixels[:, left:right] = [*(round(255 * value) for value in rgb), 255]
        left = right
    return pixels


def _apply(
    picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], color: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return recolored((picture / 255.0).astype(np.float32), recolor_to(profile(picture), color))[..., :3]


def test_profile_tells_one_hue_grey_and_motley_apart() -> None:
    red = profile(_picture((COLORS["red"], 0.8), (COLORS["white"], 0.2)))
    assert (
        red.recolorable
        and red.hued
        and red.word == "red"
        and red.dominant == pytest.approx(COLORS["red"], abs=0.01)
    )
    cow = profile(_picture((COLORS["white"], 0.7), (COLORS["black"], 0.3)))
    assert cow.recolorable and not cow.hued and cow.grey_share == 1.0
    motley = profile(
        _picture(*((COLORS[name], 0.2) for name in ("red", "green", "blue", "yellow", "purple")))
    )
    assert not motley.recolorable and motley.word is None
    assert not profile(np.zeros((9, 9, 4), np.uint8)).recolorable


@pytest.mark.parametrize("start", ["red", "yellow", "blue", "brown"])
@pytest.mark.parametrize("color", [*HUES, "black", "gray", "white"])
def test_a_hued_sticker_becomes_nearest_to_the_asked_colour(start: str, color: str) -> None:
    result = _apply(_picture((COLORS[start], 1.0)), color).reshape(-1, 3).mean(0)
    names = [*HUES, "black", "gray", "white"]
    assert min(names, key=lambda name: math.dist(result, COLORS[name])) == color


@pytest.mark.parametrize("color", HUES)
def test_a_white_sticker_takes_a_colour_and_keeps_its_dark_spots(color: str) -> None:
    result = _apply(_picture((COLORS["white"], 0.8), (COLORS["black"], 0.2)), color)
    assert min(HUES, key=lambda name: math.dist(result[0, 0], COLORS[name])) == color
    assert result[0, -1].max() < 0.25


def test_outlines_highlights_and_other_hues_stay() -> None:
    picture = _picture(
        (COLORS["red"], 0.7), (COLORS["green"], 0.1), (COLORS["white"], 0.1), (COLORS["black"], 0.1)
    )
    result, before = _apply(picture, "blue"), picture[..., :3] / 255.0
    assert np.allclose(result[:, 43:], before[:, 43:], atol=0.03) and not np.allclose(
        result[:, :40], before[:, :40], atol=0.3
    )


def test_coverage_stays_and_colours_never_exceed_it() -> None:
    values = np.random.default_rng(0).random((8, 8, 4)).astype(np.float32)
    values[..., :3] *= values[..., 3:]
    result = recolored(values, Recolor(turn=2.0, chroma=1.7, gamma=0.5))
    assert (
        np.array_equal(result[..., 3], values[..., 3]) and (result[..., :3] <= result[..., 3:] + 1e-6).all()
    )
    assert np.allclose(recolored(values, Recolor()), values, atol=0.01)
