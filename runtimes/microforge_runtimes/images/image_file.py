"""A user's image files as pixels: what ``mf-generate`` takes as a source or a mask. No torch.

EXIF orientation is applied, so that pixels are as a viewer shows them. Grey, palette and CMYK images become RGB;
of an animation the first frame counts. Alpha is kept beside the colours, which are laid on white for the model.
Samples of 16 bits are refused: the result would silently have 8. Colour profiles are ignored: values are taken as
sRGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from microforge.errors import DataError

#: Decoders that may run: the fewer, the smaller the surface for hostile files.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_PNG, _DEPTH_AT = b"\x89PNG\r\n\x1a\n", 24  # Pillow opens colour of 16 bits as 8: only the header tells

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """An upright image: ``stored`` (h, w, 3) colours as the file has them, ``alpha`` (h, w) or None."""

    stored: Pixels
    alpha: Pixels | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.stored.shape[0], self.stored.shape[1]

    def seen(self) -> Pixels:
        """The colours (h, w, 3) over white."""
        if self.alpha is None:
            return self.stored
        cover = self.alpha[..., None].astype(np.float32) / 255.0
        mixed: Pixels = np.rint(self.stored * cover + 255.0 * (1.0 - cover)).astype(np.uint8)
        return mixed


def read_picture(path: Path) -> Picture:
    """Read the source ``path``.

    Raises:
        DataError: for a file that is missing, no image of ``FORMATS``, damaged, too large, or of 16 bits.
    """
    image = _opened(path, "--source")
    if "transparency" in image.info or image.getbands()[-1] in ("A", "a"):
        pixels = np.asarray(image.convert("RGBA"), np.uint8)
        return Picture(pixels[..., :3], pixels[..., 3])
    return Picture(np.asarray(image.convert("RGB"), np.uint8))


def read_mask(path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the mask ``path``: True (h, w) where it is nearer to white than to black. What is transparent is black.

    Args:
        size: (height, width) of the source, upright.

    Raises:
        DataError: as ``read_picture``; also for another size, or a mask without a white pixel.
    """
    image = _opened(path, "--mask")
    if "transparency" in image.info or image.getbands()[-1] in ("A", "a"):
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer)
    mask: NDArray[np.bool_] = np.asarray(image.convert("L")) > 127
    if mask.shape != size:
        raise DataError(
            f"--mask {path} has {mask.shape[1]}x{mask.shape[0]} pixels, the source {size[1]}x{size[0]}; "
            "draw it on a copy of the source"
        )
    if not mask.any():
        raise DataError(f"--mask {path} is all black; paint what is to be drawn white")
    return mask


def _opened(path: Path, option: str) -> Image.Image:
    """The decoded, upright image."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_DEPTH_AT + 1)
        with Image.open(path, formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise DataError(
                    f"{option} {path} has {image.width}x{image.height} pixels; at most {limit} in all"
                )
            deep = head.startswith(_PNG) and len(head) > _DEPTH_AT and head[_DEPTH_AT] == 16
            if deep or image.mode.startswith(("I", "F")):
                raise DataError(
                    f"{option} {path} has 16 bits per sample; save it with 8 bits per sample first"
                )
            image.load()
            return ImageOps.exif_transpose(image)
    except DataError:
        raise
    except OSError as error:
        reason = (
            f"none of {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else error.strerror
        )
        reason = reason or " ".join(str(error).split())
        raise DataError(f"{option} {path} cannot be read: {reason}") from None
    except Exception as error:  # decoders raise whatever the broken bytes lead them to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{option} {path} cannot be decoded: {reason}") from None
