"""Stickers in other colours: what colour one has, which it can take, and the change of its pixels.

A sticker with one dominant hue is turned to another one; one that is mostly grey, black or white is tinted. The change is
made in YIQ, whose first axis is luminance: outlines stay dark and highlights bright, whatever the colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microforge.data.world.scenes import COLORS, RGB

Pixels = NDArray[np.float32]

_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_TO_RGB = np.linalg.inv(_TO_YIQ).astype(np.float32)
#: Chroma (largest minus smallest of R, G, B) from which a pixel has a hue, and below which it is grey.
_HUED, _GREY = 0.22, 0.15
#: Shares of the visible pixels for a sticker to take another colour: those of the dominant hue, the same with the grey
#: ones, or the grey ones alone.
_DOMINANT, _WITH_GREY, _MOSTLY_GREY = 0.38, 0.65, 0.70
#: Distance up to which a colour word is said of a sticker as it is; skin, wood and fur have none.
_SAID = 0.16
#: Pixels within this of the peak belong to the dominant hue, in radians of the YIQ plane.
_WIDTH = 0.7
_ACHROMATIC = ("black", "gray", "white")
_GAMMAS = (0.12, 6.0)


@dataclass(frozen=True)
class Recolor:
    """``y' = lift + (1 - lift) * scale * y ** gamma``; chroma is turned, scaled, and tinted where it is not dark.

    ``center`` is the hue, as an angle in the plane of I and Q, whose pixels alone are changed; None changes all.
    """

    turn: float = 0.0
    chroma: float = 1.0
    gamma: float = 1.0
    scale: float = 1.0
    lift: float = 0.0
    tint: tuple[float, float] = (0.0, 0.0)
    center: float | None = None


@dataclass(frozen=True)
class StickerColors:
    """The colours of one sticker: mean RGB of all and of the dominant pixels, and the shares of dominant and grey ones."""

    mean: RGB
    dominant: RGB
    dominant_share: float
    grey_share: float

    @property
    def recolorable(self) -> bool:
        """Whether "a blue one" of it would be seen as such."""
        return self.hued or self.grey_share >= _MOSTLY_GREY

    @property
    def hued(self) -> bool:
        """Whether one hue makes out its looks."""
        return self.dominant_share >= _DOMINANT and self.dominant_share + self.grey_share >= _WITH_GREY

    @property
    def word(self) -> str | None:
        """The colour word for it as it is, or None when no word would do."""
        if self.grey_share >= _MOSTLY_GREY:
            luminance = float(_TO_YIQ[0] @ np.asarray(self.mean))
            return (
                "black"
                if luminance < 0.25
                else "white"
                if luminance > 0.8
                else "gray"
                if luminance < 0.65
                else None
            )
        if not self.hued:
            return None
        names = [name for name in COLORS if name not in _ACHROMATIC]
        nearest = min(names, key=lambda name: _unlikeness(self.dominant, COLORS[name]))
        return nearest if _unlikeness(self.dominant, COLORS[nearest]) < _SAID else None


def profile(pixels: NDArray[np.uint8]) -> StickerColors:
    """The colours of a premultiplied picture (S, S, 4); an invisible one is black."""
    flat = pixels[::3, ::3].reshape(-1, 4).astype(np.float64) / 255.0
    flat = flat[flat[:, 3] > 0.5]
    if not len(flat):
        return StickerColors((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.0, 0.0)
    rgb = flat[:, :3] / flat[:, 3:]
    chroma = rgb.max(1) - rgb.min(1)
    hued = chroma > _HUED
    angles = np.arctan2(*(rgb @ _TO_YIQ[1:].T).T[::-1])
    counts = np.histogram(angles[hued], 48, (-math.pi, math.pi))[0].astype(np.float64)
    near = sum(np.roll(counts, shift) for shift in range(-4, 5))
    peak = -math.pi + (int(np.argmax(near)) + 0.5) * 2.0 * math.pi / 48
    close = hued & (np.abs(np.angle(np.exp(1j * (angles - peak)))) < _WIDTH)
    dominant = rgb[close].mean(0) if close.any() else rgb.mean(0)
    return StickerColors(
        _rgb(rgb.mean(0)), _rgb(dominant), float(close.mean()), float((chroma < _GREY).mean())
    )


def recolor_to(source: StickerColors, color: str) -> Recolor:
    """The change that gives a recolorable sticker the colour ``color`` of the world."""
    target = _TO_YIQ @ np.asarray(COLORS[color])
    start = _TO_YIQ @ np.asarray(source.dominant if source.hued else source.mean)
    center = math.atan2(start[2], start[1]) if source.hued else None
    if color == "white":
        return Recolor(chroma=0.05, lift=0.78, gamma=0.8, center=center)
    if color == "black":
        return Recolor(chroma=0.12, gamma=1.1, scale=0.27, center=center)
    if color == "gray":
        return Recolor(chroma=0.0, gamma=_gamma(start[0], target[0]), center=center)
    if center is None:
        scale = min(1.0, float(target[0] / max(start[0], 0.3)) * 1.05)
        return Recolor(chroma=0.2, scale=scale, tint=(float(target[1]), float(target[2])))
    stretch = float(np.clip(math.hypot(*target[1:]) / max(math.hypot(*start[1:]), 1e-3), 0.7, 1.8))
    turn = math.atan2(target[2], target[1]) - center
    return Recolor(turn=turn, chroma=stretch, gamma=_gamma(start[0], target[0]), center=center)


def recolored(values: Pixels, change: Recolor) -> Pixels:
    """Premultiplied pixels (..., 4) in [0, 1] after ``change``; coverage stays."""
    alpha = values[..., 3:]
    straight = values[..., :3] / np.maximum(alpha, 1e-4)
    yiq = straight @ _TO_YIQ.T.astype(np.float32)
    y = np.clip(yiq[..., :1], 0.0, 1.0)
    across, down = math.cos(change.turn) * change.chroma, math.sin(change.turn) * change.chroma
    i = across * yiq[..., 1:2] - down * yiq[..., 2:3]
    q = down * yiq[..., 1:2] + across * yiq[..., 2:3]
    if any(change.tint):
        lit = np.minimum(y / 0.5, 1.0)
        i, q = i + change.tint[0] * lit, q + change.tint[1] * lit
    bright = change.lift + (1.0 - change.lift) * change.scale * y**change.gamma
    turned = np.concatenate([bright, i, q], -1)
    if change.center is not None:
        turned = yiq + _near(yiq, change.center) * (turned - yiq)
    rgb = np.clip(turned @ _TO_RGB.T, 0.0, 1.0)
    changed: Pixels = np.concatenate([rgb * alpha, alpha], -1).astype(np.float32)
    return changed


def _near(yiq: Pixels, center: float) -> Pixels:
    """How much each pixel has the hue ``center``, 0 to 1, with a soft border; grey ones have none."""
    away = np.abs(np.angle(np.exp(1j * (np.arctan2(yiq[..., 2], yiq[..., 1]) - center))))
    chroma = np.hypot(yiq[..., 1], yiq[..., 2])
    share = np.clip((1.05 - away) / 0.35, 0.0, 1.0) * np.clip((chroma - 0.02) / 0.06, 0.0, 1.0)
    near: Pixels = share[..., None].astype(np.float32)
    return near


def _gamma(start: float, target: float) -> float:
    """The power that brightens luminance ``start`` to ``target``, or darkens it most of the way: details stay visible."""
    start, target = (min(max(float(value), 0.08), 0.94) for value in (start, target))
    power = math.log(target) / math.log(start)
    return float(np.clip(power if power < 1.0 else power**0.8, *_GAMMAS))


def _unlikeness(one: RGB, other: RGB) -> float:
    """Distance of two colours in which hue counts more than brightness."""
    difference = _TO_YIQ @ (np.asarray(one) - np.asarray(other))
    return math.sqrt(0.4 * difference[0] ** 2 + difference[1] ** 2 + difference[2] ** 2)


def _rgb(values: NDArray[np.float64]) -> RGB:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue
