"""A user's images as pixels: the source image and the mask of a request, from files, Pillow images or arrays. No torch.

Pixels are as a viewer shows them: upright, the first frame of an animation; grey, palette and CMYK images become RGB.
Alpha is kept beside the colours, and so is a colour profile; models see sRGB on white. Samples of 16 bits are refused:
the result would silently have 8.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microforge.errors import DataError
from microforge.io.color_profile import ColorProfile
from microforge.io.image_decoding import (
    DecodedImage,
    convert_image,
    decode_image_bytes,
    eight_bits,
    read_image_file,
)
from microforge_runtimes.images.alpha import over_white

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
#: What an image may be given as: a file, an open Pillow image, or uint8 (h, w), (h, w, 3) or (h, w, 4). A mask may also
#: be truth values, or numbers from 0 to 1, 255 or 65535, of (h, w).
ImageInput = str | Path | Image.Image | NDArray[Any]


@dataclass(frozen=True)
class SourceImage:
    """An upright image.

    ``stored`` (h, w, 3) are the colours as the file has them, of ``profile`` (None: sRGB), ``alpha`` (h, w) or None.
    ``full_size`` (height, width) is the file's own, larger than ``size`` when that was too much to read whole.
    ``remarks`` are sentences about what was passed over.
    """

    stored: Pixels
    alpha: Pixels | None = None
    profile: ColorProfile | None = None
    full_size: tuple[int, int] | None = None
    remarks: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.stored.shape[0], self.stored.shape[1]

    @functools.cached_property
    def colors(self) -> Pixels:
        """The colours (h, w, 3) in sRGB."""
        if self.profile is None:
            return self.stored
        return np.asarray(self.profile.to_srgb(Image.fromarray(self.stored)), np.uint8)

    @functools.cached_property
    def on_white(self) -> Pixels:
        """What is seen on white: (h, w, 3) in sRGB."""
        return over_white(self.colors, self.alpha)

    def as_stored(self, colors: Pixels) -> Pixels:
        """sRGB ``colors`` (h, w, 3) in this image's own profile."""
        if self.profile is None:
            return colors
        return np.asarray(self.profile.from_srgb(Image.fromarray(np.ascontiguousarray(colors))), np.uint8)

    def digest(self) -> str:
        """SHA-256 of the pixels and the profile, which does not change with the file's format or metadata."""
        parts = [self.stored, self.alpha]
        sha = hashlib.sha256(f"{self.size[0]}x{self.size[1]}".encode())
        for part in (None if part is None else np.ascontiguousarray(part).tobytes() for part in parts):
            sha.update(b"none" if part is None else part)
        sha.update(b"srgb" if self.profile is None else self.profile.icc)
        return sha.hexdigest()


def read_source_image(image: ImageInput, what: str = "--source") -> SourceImage:
    """The source ``image``, which messages call ``what``.

    Raises:
        DataError: when a file is missing, no image, damaged, or too large; when samples have 16 bits; when an array
            is no uint8 image.
    """
    decoded = _decoded(image, what)
    if decoded.bits > 8:
        raise DataError(f"{_name(image, what)} has 16 bits per sample; save it with 8 bits per sample first")
    pixels = np.asarray(decoded.image, np.uint8)
    remarks = tuple(f"{_name(image, what)}: {remark}" for remark in decoded.remarks)
    height, width = decoded.image.height, decoded.image.width
    if decoded.full_size != (height, width):
        full = decoded.full_size
        remarks += (
            f"{_name(image, what)} has {full[1]}x{full[0]} pixels, more than can be worked on; it is read at {width}x{height}",
        )
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
    return SourceImage(pixels[..., :3], alpha, decoded.profile, decoded.full_size, remarks)


def read_mask(mask: ImageInput, source: SourceImage, what: str = "--mask") -> Mask:
    """The ``mask`` of ``source``: True (h, w) where it is nearer to white than to black.

    What is transparent is black. A mask of two levels is judged by them alone, so that one of 0 and 1 is right, too.

    Raises:
        DataError: as ``read_source_image``, but for 16 bits; also for another size than the source's, or a mask
            without a white pixel.
    """
    decoded, size = _decoded(_grey_mask(mask, what), what), source.size
    image = decoded.image
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    levels = np.asarray(image.convert("L"))
    if decoded.full_size not in (size, source.full_size or size):
        height, width = decoded.full_size
        raise DataError(
            f"{_name(mask, what)} has {width}x{height} pixels, the source {size[1]}x{size[0]}; "
            "paint it on a copy of the source"
        )
    brightest = int(levels.max())
    black_and_one_level = not ((levels > 0) & (levels < brightest)).any()
    area: Mask = levels > (0 if black_and_one_level else 127)
    if not area.any():
        depth = "; of 16-bit colours only the upper 8 bits are read" if decoded.bits > 8 else ""
        raise DataError(
            f"{_name(mask, what)} is black, its brightest value is {brightest} of 255{depth}; "
            "paint white what is to be generated"
        )
    if area.shape != size:  # of the source's full size, which was read at a smaller one
        shrunk = Image.fromarray(area).convert("L").resize((size[1], size[0]), Image.Resampling.BOX)
        area = np.asarray(shrunk) > 0
    return area


def _decoded(image: ImageInput, what: str) -> DecodedImage:
    try:
        if isinstance(image, Image.Image):
            return convert_image(image)
        if isinstance(image, np.ndarray):
            return convert_image(_from_array(image))
        return decode_image_bytes(read_image_file(Path(image)), large_jpeg="reduce")
    except DataError as error:
        raise DataError(f"{_name(image, what)} {error}") from None


def _grey_mask(mask: ImageInput, what: str) -> ImageInput:
    """``mask``, of one channel of truth values or of numbers beyond 8 bits as uint8 (h, w) instead."""
    if isinstance(mask, Image.Image) and mask.mode.startswith(("I", "F")):
        values: NDArray[Any] = np.asarray(mask)
    elif (
        isinstance(mask, np.ndarray)
        and mask.ndim == 2
        and mask.dtype != np.uint8
        and mask.dtype.kind in "biuf"
    ):
        values = mask
    else:
        return mask
    if values.size and not (np.isfinite(values).all() and 0 <= values.min() and values.max() <= 65535):
        raise DataError(f"{what} has values outside 0 to 65535, or not finite ones; use 0 and 255")
    brightest = values.max(initial=0)
    return eight_bits(
        values.astype(np.float32) * (65535 if brightest <= 1 else 257 if brightest <= 255 else 1)
    )


def _from_array(pixels: NDArray[Any]) -> Image.Image:
    shape, dtype = pixels.shape, pixels.dtype
    if dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))) or 0 in shape:
        raise DataError(f"is {dtype}{list(shape)}; allowed: uint8 of (h, w), (h, w, 3) or (h, w, 4)")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _name(image: ImageInput, what: str) -> str:
    return f"{what} {image}" if isinstance(image, (str, Path)) else what
