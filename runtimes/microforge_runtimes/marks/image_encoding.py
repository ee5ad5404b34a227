"""Pixels as the bytes of a PNG, JPEG or WebP file that says what made it. No torch.

The same pixels and marks give the same bytes: nothing depends on the time or the machine.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from microforge.errors import OutputError
from microforge.version import __version__
from microforge_runtimes.marks.settings import Settings
from microforge_runtimes.marks.xmp import MAX_JPEG_PACKET, PNG_KEYWORD, Marks, SourceType, xmp_packet

Format = Literal["PNG", "JPEG", "WEBP"]
#: File name ending -> format of the file.
FORMATS: dict[str, Format] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MEDIA_TYPES: dict[Format, str] = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
#: Best quality, full colour resolution; WebP and PNG lose nothing at all.
_OPTIONS: dict[Format, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
}
TOOL = f"microforge {__version__}"


def image_format(path: Path) -> Format:
    """The format that the ending of ``path`` names.

    Raises:
        OutputError: for any other ending.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise OutputError(f"the image's name is {path}; it must end in one of {', '.join(FORMATS)}")
    return FORMATS[ending]


def encode_image(
    pixels: NDArray[np.uint8], format: Format, source_type: SourceType, settings: Settings | None = None,
    icc: bytes | None = None, quality: int | None = None,
) -> bytes:  # fmt: skip
    """A file of ``pixels`` (h, w, 3) or (h, w, 4), marked as generated.

    Args:
        source_type: what is said of the image's origin, always.
        settings: what it was generated with; None leaves that out.
        icc: colour profile of the pixels; None is sRGB.
        quality: for smaller files, 1 to 100: of lossy WebP or JPEG; a PNG then has 256 colours, fewer below 50.

    Raises:
        OutputError: when the format cannot hold the image's transparency or the settings.
    """
    if format == "JPEG" and pixels.shape[2] == 4:
        raise OutputError("the image is transparent, which JPEG cannot hold; name the file .png or .webp")
    packet = xmp_packet(_marks(source_type, settings))
    options = {**_OPTIONS[format], **({} if icc is None else {"icc_profile": icc})}
    if format == "PNG":
        options["pnginfo"] = _png_texts(packet, settings)
    else:
        options["xmp"] = packet.encode("utf-8")
    if format == "JPEG" and len(options["xmp"]) > MAX_JPEG_PACKET:
        raise OutputError(
            f"the settings take {len(options['xmp'])} bytes, a JPEG holds {MAX_JPEG_PACKET}; name the file .png or "
            ".webp, or leave them out with --private"
        )
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if quality is not None:
        image, options = _smaller(image, format, quality, options)
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def _smaller(
    image: Image.Image, format: Format, quality: int, options: dict[str, Any]
) -> tuple[Image.Image, dict[str, Any]]:
    """The image and the options of a smaller file."""
    if format == "PNG":
        colors = 256 if quality >= 50 else 64
        return image.quantize(colors, Image.Quantize.FASTOCTREE), {**options, "optimize": True}
    if format == "WEBP":
        return image, {**options, "lossless": False, "exact": False, "quality": quality}
    return image, {**options, "quality": quality}


def _marks(source_type: SourceType, settings: Settings | None) -> Marks:
    if settings is None:
        return Marks(source_type, tool=TOOL)
    return Marks(source_type, settings.text(), settings.prompt, TOOL)


def _png_texts(packet: str, settings: Settings | None) -> PngInfo:
    """The packet, and the main settings once more as text chunks, which every viewer of PNG texts shows."""
    info = PngInfo()
    info.add_itxt(PNG_KEYWORD, packet)
    info.add_text("Software", TOOL)
    if settings is not None:
        for key in ("prompt", "seed", "task", "size", "steps", "bundle"):
            info.add_text(key, str(getattr(settings, key) or ("" if key == "prompt" else 0)))
    return info
