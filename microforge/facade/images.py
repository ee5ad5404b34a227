"""Source images and masks as users have them (a path, a Pillow image, an array) in the form that the runtime takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from microforge.errors import DataError
from microforge.facade.result import GeneratedImage
from microforge_runtimes.images.image_file import Pixels, SourceImage, read_mask, read_source_image

#: A path, a Pillow image, a result of an earlier call, or an array: uint8, or floating point in [0, 1].
ImageInput = str | Path | Image.Image | GeneratedImage | NDArray[Any]


def source_image(image: ImageInput) -> SourceImage:
    """The source image, upright, its transparency kept apart.

    Arrays are (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA.

    Raises:
        DataError: for a file that cannot be read, another shape, dtype or range, or 16 bits per sample.
    """
    if isinstance(image, (str, Path)):
        return read_source_image(image, "image")
    if isinstance(image, GeneratedImage):
        return _of_array(image.array)
    if isinstance(image, Image.Image):
        return read_source_image(image, "image")
    return _of_array(_as_uint8(image, "image"))


def mask_pixels(mask: ImageInput, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask, True (H, W) where pixels may change: white, 1 or True.

    Args:
        mask: of the source image's size; arrays are (H, W), or (H, W, 1).
        size: (height, width) of the source image.

    Raises:
        DataError: as ``source_image``; also for another size, or a mask without a pixel to change.
    """
    if isinstance(mask, (str, Path)):
        return read_mask(mask, SourceImage(np.zeros((*size, 3), np.uint8)), "mask")
    if isinstance(mask, GeneratedImage):
        mask = mask.image
    if isinstance(mask, Image.Image):
        pixels = _mask_levels(mask)
    else:
        pixels = _as_uint8(mask, "mask")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.shape != size:
        raise DataError(f"the mask is {pixels.shape}; it must be {size} (height, width), as the image")
    white: NDArray[np.bool_] = pixels > 127
    if not white.any():
        raise DataError("the mask is all black; make the pixels to change white (255, 1.0 or True)")
    return white


def _of_array(pixels: Pixels) -> SourceImage:
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or 0 in pixels.shape:
        raise DataError(f"the image array is {pixels.shape}; allowed: (H, W), (H, W, 3) or (H, W, 4)")
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
    return SourceImage(np.ascontiguousarray(pixels[..., :3]), alpha)


def _mask_levels(image: Image.Image) -> Pixels:
    """(H, W) of an image, where transparency counts as black."""
    if image.mode.startswith(("I", "F")):
        raise DataError(f"the mask has mode {image.mode}; convert it to 8 bits per sample first")
    image = ImageOps.exif_transpose(image)
    if "transparency" in image.info or image.getbands()[-1] in ("A", "a"):
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer)
    return np.asarray(image.convert("L"), np.uint8)


def _as_uint8(values: NDArray[Any], what: str) -> Pixels:
    """Pixels of an array that is uint8, bool, or floating point in [0, 1]."""
    array = np.asarray(values)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"the {what} array is {array.dtype}; allowed: uint8, bool, or floats in [0, 1]")
    if not (array.size and 0.0 <= array.min() and array.max() <= 1.0):
        raise DataError(f"the {what} array has floats outside [0, 1]; scale it, or convert it to uint8")
    pixels: Pixels = np.rint(array * 255.0).astype(np.uint8)
    return pixels
