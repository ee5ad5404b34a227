"""Decoding of image files to RGB pixels of one size.

EXIF orientation is applied. Transparent images are composited on white. Grey, palette and CMYK images become RGB, and
16-bit grey is scaled. An animation gives its first frame. Colour profiles are ignored: values are taken as sRGB.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from microforge.errors import DataError

#: Suffixes of image files. The format itself is determined from the content.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
#: Formats that Pillow may decode: fewer decoders are a smaller attack surface for hostile files.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")

Pixels = NDArray[np.uint8]


def decode_image(data: bytes, size: tuple[int, int], spare: bool = False) -> Pixels:
    """Decode an image, resize it so that it covers ``size`` (height, width), and crop its centre.

    Args:
        data: the encoded image.
        size: (height, width) in pixels.
        spare: do not crop, up to twice ``size``, so that random crops are possible later.

    Returns:
        uint8 (H, W, 3); with ``spare`` up to (2 H, 2 W, 3).

    Raises:
        DataError: when the image is damaged, truncated or of another format, or has more pixels than Pillow's limit.
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
    except Exception as error:  # decoders raise arbitrary exceptions for damaged files
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
        raise DataError(f"has {image.width}x{image.height} pixels; at most {limit} in total")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: convert() would cut at 255 instead of scaling
        grey = np.asarray(image).astype(np.float32) / 257.0  # 65535 -> 255
        return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.getbands()[-1] in ("A", "a"):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _cover(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) scaled until both sides reach ``size``; a panorama is cropped to twice ``size``."""
    scale = max(size[0] / height, size[1] / width)
    tall, wide = (
        min(max(round(side * scale), least), 2 * least)
        for side, least in zip((height, width), size, strict=True)
    )
    return tall, wide
