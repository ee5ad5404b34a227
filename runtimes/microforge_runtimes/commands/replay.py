"""``--like``: the settings of an image that was generated before, and whether they still hold."""

from __future__ import annotations

from pathlib import Path

from microforge.errors import BundleError, DataError
from microforge.io.image_decoding import read_image_file
from microforge_runtimes.images.image_file import Mask, SourceImage
from microforge_runtimes.marks.settings import Settings, mask_digest, parse_settings
from microforge_runtimes.marks.xmp import read_marks


def read_settings(image: Path) -> Settings:
    """The settings inside the file ``image``.

    Raises:
        DataError: when it cannot be read, or has none that can be used.
    """
    try:
        text = read_marks(read_image_file(image)).settings
        if text is None:
            raise DataError(
                "holds no settings: it was not made by mf-generate, was made with --private, or a program that "
                "saved it since has dropped them"
            )
        return parse_settings(text)
    except DataError as error:
        raise DataError(f"--like {image} {error}") from None


def check_model(settings: Settings, model: Path, bundle_id: str) -> None:
    """Refuse another model than the one of ``settings``.

    Raises:
        BundleError: names both ids.
    """
    if settings.bundle != bundle_id:
        raise BundleError(
            f"--like: the image was generated with the bundle {settings.bundle}, {model} is {bundle_id}; give that one, "
            "or give prompt and seed in place of --like"
        )


def check_files(settings: Settings, source: Path | None, mask: Path | None) -> None:
    """Ask for the source and the mask that ``settings`` were used with.

    Raises:
        DataError: names the option that is missing.
    """
    for digest, path, option, what in (
        (settings.source_sha256, source, "--source", "a source image"),
        (settings.mask_sha256, mask, "--mask", "a mask"),
    ):
        if digest is not None and path is None:
            raise DataError(f"--like: the image was made from {what}; give it again with {option} FILE")


def check_pixels(settings: Settings, source: SourceImage, mask: Mask | None) -> None:
    """Refuse another source or mask than those of ``settings``.

    Raises:
        DataError: names the option.
    """
    if settings.source_sha256 not in (None, source.digest()):
        raise DataError("--source is not the image that --like was made from: its pixels differ")
    if mask is not None and settings.mask_sha256 not in (None, mask_digest(mask)):
        raise DataError("--mask is not the mask that --like was made with: its pixels differ")
