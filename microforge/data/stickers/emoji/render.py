"""SVG to PNG with an alpha channel, by resvg (https://github.com/linebender/resvg)."""

from __future__ import annotations

import importlib

from microforge.errors import DataError, missing_extra


def check_renderer() -> None:
    """Whether resvg is here.

    Raises:
        MissingExtraError: when it is not.
    """
    try:
        importlib.import_module("resvg_py")
    except ImportError:
        raise missing_extra("resvg-py", "stickers") from None


def render_svg(svg: str, side: int) -> bytes:
    """``svg`` on a transparent square of ``side`` pixels, as the bytes of a PNG.

    Raises:
        DataError: when the SVG is broken. MissingExtraError: without resvg.
    """
    check_renderer()
    import resvg_py

    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True))
    except ValueError as error:
        raise DataError(f"cannot be rendered ({error})") from None
