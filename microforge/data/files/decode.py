"""Encoded images to RGB pixels of one size, as a viewer would show them.

EXIF orientation is applied, transparency is laid on white, grey, palette and CMYK images become RGB, 16-bit
grey keeps its range, an animation gives its first frame. Colour profiles are ignored: values are taken as sRGB.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from microforge.errors import DataError

#: File name endings that are taken for images. What a file really is decides its content.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
#: Decoders that may run: the fewer, the smaller the surface for hostile files.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")

Pixels = NDArray[np.uint8]


def decode_image(data: bytes, size: tuple[int, int], spare: bool = False) -> Pixels:
    """Decode, resize so that the image covers ``size`` (height, width), and keep its centre.

    Args:
        spare: keep what the crop would cut off, up to twice ``size``, so that a window can move over it.

    Returns:
        uint8 (H, W, 3); with ``spare`` up to (2 H, 2 W, 3).

    Raises:
        DataError: for anything that is not a whole image, or has more pixels than Pillow's bomb guard allows.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_pixels(image)
            side = 2 * max(size)
            image.draft(None, (side, side))  # JPEG decodes straight to 1/2, 1/4, 1/8: phone photos stay small
            ImageOps.exif_transpose(image, in_place=True)
            upright = _rgb(image)
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever the broken bytes lead them to
        reason = " ".join(str(error).split())
        if isinstance(error, UnidentifiedImageError):
            reason = f"none of {', '.join(_FORMATS)}"
        raise DataError(f"cannot be decoded ({reason or type(error).__name__})") from None
    height, width = _cover(upright.height, upright.width, size) if spare else size
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)  # anti-aliased
    return np.asarray(fitted, dtype=np.uint8)


def _check_pixels(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(f"has {image.width}x{image.height} pixels; at most {limit} in all")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: convert() would cut at 255 instead of scaling
        grey = np.asarray(image).astype(np.float32) / 257.0  # 65535 -> 255
        return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.getbands()[-1] in ("A", "a"):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _cover(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) scaled until both sides reach ``size``; a panorama is cut at twice ``size``."""
    scale = max(size[0] / height, size[1] / width)
    tall, wide = (
        min(max(round(side * scale), least), 2 * least)
        for side, least in zip((height, width), size, strict=True)
    )
    return tall, wide
