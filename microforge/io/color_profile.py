"""Colours of an ICC profile as sRGB, which models are trained on, and back. No torch.

An image without a profile is sRGB. So is one whose profile hardly differs from it: converting would round every
pixel for nothing.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

#: A profile that moves no colour by more than this many levels of 255 counts as sRGB.
SAME = 2
#: A profile that sRGB colours do not come back from within this many levels is not converted back to.
_RETURNED = 6
#: Colours per axis of the cube that profiles are judged by.
_PROBES = 9


@dataclass(frozen=True)
class ColorProfile:
    """An ICC profile of RGB colours, other than sRGB, that can be converted from and to."""

    icc: bytes

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """``image`` (RGB) of this profile in sRGB."""
        return _converted(image, _transform(self.icc, "RGB", False))

    def from_srgb(self, image: Image.Image) -> Image.Image:
        """``image`` (RGB) of sRGB in this profile."""
        return _converted(image, _transform(self.icc, "RGB", True))


class ProfileError(ValueError):
    """An ICC profile that cannot be read, or is of another kind of image."""


def convert_profile(image: Image.Image, icc: bytes) -> tuple[Image.Image, ColorProfile | None]:
    """``image`` (RGB, L or CMYK), which has the profile ``icc``, and the profile that it has afterwards.

    An RGB image keeps its pixels, and its profile unless that is as good as sRGB. Grey and CMYK images, and those of
    a profile that cannot be converted back to, become sRGB.

    Raises:
        ProfileError: when the profile is damaged or does not fit the image.
    """
    forward = _transform(icc, image.mode, False)
    if image.mode != "RGB":
        if image.mode == "L" and _moves(_greys(), forward) <= SAME:
            return image, None
        return _converted(image, forward), None
    cube = _cube()
    if _moves(cube, forward) <= SAME:
        return image, None
    try:
        back = _transform(icc, "RGB", True)
    except ProfileError:
        return _converted(image, forward), None
    if _difference(_converted(_converted(cube, back), forward), cube) > _RETURNED:
        return _converted(image, forward), None
    return image, ColorProfile(icc)


@functools.lru_cache(maxsize=8)
def _transform(icc: bytes, mode: str, back: bool) -> Any:
    try:
        from PIL import ImageCms
    except ImportError:
        raise ProfileError("this build of Pillow has no colour management") from None
    try:
        profile, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
        source, result = (srgb, profile) if back else (profile, srgb)
        return ImageCms.buildTransform(source, result, mode, "RGB")
    except Exception as error:  # PyCMSError, OSError, ValueError: damaged, or of another kind of image
        raise ProfileError(" ".join(str(error).split()) or "it cannot be read") from None


def _converted(image: Image.Image, transform: Any) -> Image.Image:
    from PIL import ImageCms

    result = ImageCms.applyTransform(image, transform)
    if result is None:
        raise ProfileError("it cannot be applied")
    return result


def _moves(image: Image.Image, transform: Any) -> int:
    return _difference(_converted(image, transform), image.convert("RGB"))


def _difference(first: Image.Image, second: Image.Image) -> int:
    return int(np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16)).max())


@functools.cache
def _cube() -> Image.Image:
    levels = np.linspace(0, 255, _PROBES).round().astype(np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)
    return Image.fromarray(np.ascontiguousarray(colors.reshape(1, -1, 3)))


@functools.cache
def _greys() -> Image.Image:
    return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
