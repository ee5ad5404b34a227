"""Decoding of image files to RGB pixels of one size.

Orientation is applied and colour profiles are converted to sRGB. Transparent images are composited on white. Grey,
palette and CMYK images become RGB, and 16-bit grey is scaled. An animation gives its first frame. Damaged metadata does
not cost the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from microforge.io.image_decoding import decode_image_bytes

#: Suffixes of image files. The format itself is determined from the content.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".jfif", ".jpe")
#: Suffixes of images that are named and left out: no decoder for them runs here.
UNREAD_SUFFIXES = (
    ".avif", ".heic", ".heif", ".hif", ".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".jxl", ".svg", ".ico", ".tga", ".psd", ".exr",
    ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".ppm", ".pgm", ".pnm", ".qoi",
)  # fmt: skip

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
    upright = decode_image_bytes(data, cover=2 * max(size)).in_srgb()
    if upright.mode == "RGBA":
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    height, width = _cover(upright.height, upright.width, size) if spare else size
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)  # anti-aliased
    return np.asarray(fitted, dtype=np.uint8)


def _cover(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) scaled until both sides reach ``size``; a panorama is cropped to twice ``size``."""
    scale = max(size[0] / height, size[1] / width)
    tall, wide = (
        min(max(round(side * scale), least), 2 * least)
        for side, least in zip((height, width), size, strict=True)
    )
    return tall, wide
