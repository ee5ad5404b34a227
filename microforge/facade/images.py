"""Source images and masks as users have them (a path, a Pillow image, an array) in the form that the runtime takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microforge.errors import DataError
from microforge.facade.result import GeneratedImage
from microforge_runtimes.images.image_file import Mask, SourceImage, read_mask, read_source_image

#: A path, a Pillow image, a result of an earlier call, or an array: uint8, bool, or floating point in [0, 1].
ImageLike = str | Path | Image.Image | GeneratedImage | NDArray[Any]


def source_image(image: ImageLike) -> SourceImage:
    """The source image, upright, its transparency kept apart.

    Arrays are (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA.

    Raises:
        DataError: for a file that cannot be read, another shape, dtype or range, or 16 bits per sample.
    """
    return read_source_image(_file_image_or_uint8(image, "image"), "image")


def mask_pixels(mask: ImageLike, source: SourceImage) -> Mask:
    """The mask, True (H, W) where pixels may change: white, 1 or True; transparent pixels count as black.

    Arrays are (H, W) or (H, W, 1).

    Raises:
        DataError: as ``source_image``; also for another size than the source's, or a mask without a pixel to change.
    """
    return read_mask(_file_image_or_uint8(mask, "mask"), source, "mask")


def _file_image_or_uint8(image: ImageLike, what: str) -> str | Path | Image.Image | NDArray[np.uint8]:
    if isinstance(image, (str, Path, Image.Image)):
        return image
    if isinstance(image, GeneratedImage):
        return image.image
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(array.dtype, np.floating):
        return array
    if not (array.size and 0.0 <= array.min() and array.max() <= 1.0):
        raise DataError(f"{what} has floats outside [0, 1]; scale it, or convert it to uint8")
    pixels: NDArray[np.uint8] = np.rint(array * 255.0).astype(np.uint8)
    return pixels
