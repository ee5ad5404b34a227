"""Encoded images to upright pixels: what a viewer shows, whatever state the metadata is in. No torch.

Pixels are read apart from metadata: a damaged text, orientation or colour profile costs itself and not the image.
Of an animation the first frame counts. Large JPEGs can be decoded at 1/2, 1/4 or 1/8 of their size.
"""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from microforge.errors import DataError
from microforge.io import jpeg_segments
from microforge.io.color_profile import ColorProfile, ProfileError, convert_profile
from microforge.io.file_kind import HEAD_BYTES, file_kind, with_article
from microforge.io.png_chunks import bits_per_sample, has_profile, without_faulty_metadata
from microforge.io.quiet import quiet_pillow

#: Decoders that may run: the fewer, the smaller the surface for hostile files.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_KINDS = ("JPEG image", "PNG image", "WebP image", "BMP image", "GIF image")
#: Larger files are not read into memory.
MAX_BYTES = 1 << 30
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_END_OF_JPEG = b"\xff\xd9"
#: Stand-ins for the missing rest of a JPEG: an image that needs none of it looks the same with either.
_CONTINUATIONS = (b"", b"\x55\xaa\x0f" * 64)


@dataclass(frozen=True)
class DecodedImage:
    """An upright image with 8 bits per sample (``bits`` tells what the file has).

    ``image`` has the mode RGB or RGBA; its colours are sRGB, or those of ``profile``. ``full_size`` is the file's own
    (height, width), upright, which is larger than the image's when that was decoded reduced. ``remarks`` are
    sentences about what was passed over.
    """

    image: Image.Image
    full_size: tuple[int, int]
    profile: ColorProfile | None = None
    bits: int = 8
    remarks: tuple[str, ...] = ()

    def in_srgb(self) -> Image.Image:
        """The image (RGB or RGBA) in sRGB."""
        if self.profile is None:
            return self.image
        return _with_alpha_of(self.image, self.profile.to_srgb(self.image.convert("RGB")))


def read_image_file(path: Path) -> bytes:
    """Content of the image file ``path``, of which the beginning is looked at before the rest is read.

    Raises:
        DataError: when it is no regular file, no image of ``FORMATS``, too large, or cannot be read.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError("is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise DataError("is no regular file")
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
            _check_kind(head)
            if status.st_size > MAX_BYTES:
                raise DataError(f"has {status.st_size} bytes; at most {MAX_BYTES} are read")
            return head + stream.read()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a null character in the name
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot be read: {error}") from None


def decode_image_bytes(
    data: bytes, *, cover: int | None = None, large_jpeg: Literal["refuse", "reduce"] = "refuse"
) -> DecodedImage:
    """Decode an image file's content ``data``.

    Args:
        cover: pixels of the shorter use: a JPEG is decoded reduced as far as both sides stay at least this long.
        large_jpeg: what becomes of a JPEG with more pixels than Pillow's limit: "reduce" decodes it smaller.

    Raises:
        DataError: for anything that is not a whole image of ``FORMATS`` or has too many pixels; one line without the
            file's name.
    """
    _check_kind(data[:HEAD_BYTES])
    try:
        with quiet_pillow():  # about metadata and sizes, which are judged here
            return _decoded(data, cover, large_jpeg)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever the broken bytes lead them to
        kind = file_kind(data[:HEAD_BYTES])
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "its beginning is damaged"
        raise DataError(f"is a damaged {kind} ({reason})") from None


def convert_image(image: Image.Image) -> DecodedImage:
    """An image that is already open, as ``decode_image_bytes`` gives it.

    Raises:
        DataError: when its samples have more than 8 bits.
    """
    if image.mode.startswith(("I", "F")):
        raise DataError(f"has the mode {image.mode}, more than 8 bits per sample; convert it to 8 bits first")
    return _upright(image, (image.height, image.width), image.info.get("icc_profile"))


def eight_bits(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Samples of 16 bits (h, w) as those of 8 bits; where there is only black and one level, they stay different."""
    levels: NDArray[np.uint8] = (samples.astype(np.float32) / 257.0).round().clip(0, 255).astype(np.uint8)
    brightest = samples.max(initial=0)
    if 0 < brightest < 257 and not ((samples > 0) & (samples < brightest)).any():  # a mask of 0 and 1
        levels = np.where(samples > 0, np.maximum(levels, 1), 0).astype(np.uint8)
    return levels


def _check_kind(head: bytes) -> None:
    kind = file_kind(head)
    if kind not in _KINDS:
        raise DataError(f"is {with_article(kind)}; allowed: {', '.join(FORMATS)}")


def _decoded(data: bytes, cover: int | None, large_jpeg: str) -> DecodedImage:
    opened = _open(data)
    full_size = opened.height, opened.width
    if opened.format == "JPEG":
        jpeg_segments.check_jpeg(data, opened.width, opened.height, Image.MAX_IMAGE_PIXELS)
    _reduce(opened, cover, large_jpeg)
    _check_pixels(opened)
    try:
        opened.load()
    except OSError:
        completed = _completed_jpeg(data, cover, large_jpeg) if opened.format == "JPEG" else None
        if completed is None:
            raise
        opened = completed
    icc = opened.info.get("icc_profile") or (b"" if has_profile(data) else None)
    bits = bits_per_sample(data)
    _scale_transparent_grey(opened, bits)
    return replace(_upright(opened, full_size, icc), bits=bits)


def _scale_transparent_grey(image: Image.Image, bits: int) -> None:
    """Scale a transparent grey level as Pillow scales the pixels, but not this level: 15 of 4 bits is 255."""
    level = image.info.get("transparency")
    if image.mode == "L" and bits < 8 and isinstance(level, int):
        image.info["transparency"] = level * 255 // ((1 << bits) - 1)


def _open(data: bytes) -> Image.Image:
    """The opened image, nothing decoded."""
    if file_kind(data[:HEAD_BYTES]) == "JPEG image":
        return _open_jpeg(data)
    if file_kind(data[:HEAD_BYTES]) == "PNG image":
        data = without_faulty_metadata(data)
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _open_jpeg(data: bytes) -> Image.Image:
    """The opened JPEG; ``Image.open`` would refuse large ones before they can be reduced."""
    failure: Exception | None = None
    for version in jpeg_segments.without_faulty_metadata(data):
        try:
            return JpegImageFile(io.BytesIO(version))
        except Exception as error:  # parsers of metadata raise whatever broken bytes lead them to
            failure = failure or error
    assert failure is not None
    raise failure


def _reduce(image: Image.Image, cover: int | None, large_jpeg: str) -> None:
    """Choose the size that a JPEG is decoded at, 1, 1/2, 1/4 or 1/8 of its own; other formats have no choice."""
    if image.format != "JPEG":
        return
    if cover is not None:
        image.draft(None, (cover, cover))
        return
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None or large_jpeg == "refuse":
        return
    for scale in (1, 2, 4, 8):
        size = (-(-image.width // scale), -(-image.height // scale))
        if size[0] * size[1] <= limit:
            if scale > 1:
                image.draft(None, (image.width // scale, image.height // scale))
            return


def _check_pixels(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(f"has {image.width}x{image.height} pixels; at most {limit} in all")


def _upright(image: Image.Image, full_size: tuple[int, int], icc: bytes | None) -> DecodedImage:
    """``image``, turned as EXIF or XMP say where they can be read; ``full_size`` is turned with it."""
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # whatever a damaged block leads the parser to
        orientation = 1
    decoded = _rgb(image, icc)
    turn = _TURNS.get(orientation)
    if turn is None:
        return replace(decoded, full_size=full_size)
    size = full_size[::-1] if orientation > 4 else full_size
    return replace(decoded, image=decoded.image.transpose(turn), full_size=size)


def _completed_jpeg(data: bytes, cover: int | None, large_jpeg: str) -> Image.Image | None:
    """The image of a JPEG that lacks its end marker alone; None when pixels are missing, too."""
    attempts = []
    for continuation in _CONTINUATIONS:
        opened = _open_jpeg(data.removesuffix(b"\xff") + continuation + _END_OF_JPEG)
        _reduce(opened, cover, large_jpeg)
        try:
            opened.load()
        except OSError:
            return None
        attempts.append(opened)
    same = np.array_equal(np.asarray(attempts[0]), np.asarray(attempts[1]))
    return attempts[0] if same else None


def _rgb(image: Image.Image, icc: bytes | None) -> DecodedImage:
    """``image`` as RGB or RGBA, its colours in sRGB or in a profile that is kept."""
    size = (image.height, image.width)
    if image.mode.startswith("I"):  # 16-bit grey: convert() would cut at 255 instead of scaling
        return DecodedImage(_from_16_bits(image), size)
    if "transparency" in image.info or image.getbands()[-1] in ("A", "a"):
        image = image.convert("RGBA")
    colors = image if image.mode in ("L", "CMYK") else image.convert("RGB")
    profile: ColorProfile | None = None
    remarks: tuple[str, ...] = ()
    if icc is not None:
        try:
            colors, profile = convert_profile(colors, icc)
        except ProfileError as error:
            remarks = (f"its colour profile cannot be used ({error}); its colours are taken as sRGB",)
    return DecodedImage(_with_alpha_of(image, colors.convert("RGB")), size, profile, 8, remarks)


def _from_16_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits as RGB, or as RGBA where the file has a transparent level."""
    levels = np.asarray(image).astype(np.float32)  # (h, w)
    grey = Image.fromarray(eight_bits(levels))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey.convert("RGB")
    colors = grey.convert("RGBA")
    colors.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return colors


def _with_alpha_of(image: Image.Image, colors: Image.Image) -> Image.Image:
    if image.mode == "RGBA":
        colors.putalpha(image.getchannel("A"))
    return colors
