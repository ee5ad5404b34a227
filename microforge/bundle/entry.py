"""Bounded values that every part of a manifest is made of. No torch, no file access.

A manifest may come from anywhere, so every list, text and number in it has a limit: whatever is read, checked or
allocated stays in proportion to the file.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

#: Elements of one tensor: an image of 4,096 x 4,096 pixels has 50 million.
MAX_ELEMENTS = 1 << 26
#: Largest integer that JSON readers of every language keep exact.
MAX_BYTES = (1 << 53) - 1


class Entry(BaseModel):
    """Base of everything in a manifest: values that do not change, and no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_relative_path(path: str) -> str:
    """``path`` when it is a plain relative POSIX path that cannot leave the folder it is relative to.

    Raises:
        ValueError: otherwise.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in '\\:*?"<>|' or ord(c) < 32 for c in path):
        raise ValueError(
            f"path {path[:80]!r} must be relative, with / between names and no . or .. among them"
        )
    return path


def _bounded_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"shape {list(shape)} has more than {MAX_ELEMENTS:,} elements")
    return shape


RelativePath = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(check_relative_path)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Bytes = Annotated[int, Field(ge=0, le=MAX_BYTES)]
#: Pixels, latent cells, channels or tokens along one axis.
Side = Annotated[int, Field(ge=1, le=1 << 20)]
Shape = Annotated[tuple[Side, ...], Field(max_length=8), AfterValidator(_bounded_shape)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Seed = Annotated[int, Field(ge=0, lt=1 << 64)]
#: A name that the manifest gives to something of its own (a task, an encoder, a guidance scale ...).
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
#: Key of a component; engines name files and methods by it.
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
#: Name of an input or output, as the engine's file has it.
TensorName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[!-~]+$")]
Line = Annotated[str, Field(max_length=500, pattern=r"^[^\n\r]*$")]
Coefficient = Annotated[float, Field(ge=-1e6, le=1e6)]
#: Role of a component, or id of a task: words of the manifest alone.
Role = Name
TaskName = Name
DecibelValue = Annotated[float, Field(ge=-1e6, le=1e6)]


class FileEntry(Entry):
    """One file of the bundle; its size and hash are checked before it is opened."""

    path: RelativePath
    sha256: Sha256
    bytes: Bytes


class Size(Entry):
    """An image size in pixels."""

    height: Side
    width: Side

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"
