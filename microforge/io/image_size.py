"""Image sizes as users write them, in numbers; and values as messages show them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex, TypeGuard

from microforge.errors import SpecError


def check_size(height: int, width: int, multiple: int = 32) -> tuple[int, int]:
    """``(height, width)`` when both are positive multiples of ``multiple`` pixels.

    Raises:
        SpecError: otherwise; names the nearest allowed size.
    """
    if height > 0 and width > 0 and height % multiple == 0 and width % multiple == 0:
        return height, width
    nearest = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in (height, width))
    raise SpecError(
        f"size {height}x{width} is not a multiple of {multiple} on both sides; nearest allowed: {nearest}"
    )


#: An image size as a user may write it: 256, "256", "256x384" or (256, 384), height first.
SizeInput = int | str | tuple[int, int]


def parse_size(size: SizeInput, multiple: int = 32) -> tuple[int, int]:
    """``(height, width)`` of ``size``, such as ``"256x384"`` (height x width).

    Raises:
        SpecError: when it is no size, or not a multiple of ``multiple``.
    """
    return check_size(*read_size(size), multiple)


def read_size(size: SizeInput) -> tuple[int, int]:
    """``(height, width)`` of ``size`` with any sides.

    Raises:
        SpecError: when it is no size.
    """
    parts: Sequence[object] = ()
    if isinstance(size, str):
        texts = size.lower().split("x")
        if all(part.isascii() and part.isdigit() and len(part) < 6 for part in texts):
            parts = [int(part) for part in texts]
    else:
        parts = size if isinstance(size, (tuple, list)) else [size]
    sides = [side.__index__() for side in parts if _is_integer(side)]
    if not 1 <= len(parts) <= 2 or len(sides) < len(parts) or min(sides) < 0:
        raise SpecError(f"size {shown(size)} is not understood; write 256 or 256x384 (height x width)")
    return sides[0], sides[-1]


def _is_integer(value: object) -> TypeGuard[SupportsIndex]:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def shown(value: object) -> str:
    """``value`` as a message shows it, cut to a length that fits on a line."""
    text = (
        repr(value)
        if not isinstance(value, int) or abs(value) < 10**30
        else "a number of more than 30 digits"
    )
    return text if len(text) <= 80 else f"{text[:80]}..."
