"""Safetensors files of a cache: written whole or not at all, with a key that says what they were computed from."""

from __future__ import annotations

from pathlib import Path

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from microforge.io.atomic import atomic_path


def write_atomically(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file; an old one is replaced.

    Raises:
        OutputError: when it cannot be written, on a full disk for example.
    """
    with atomic_path(file, force=True) as path:
        save_file(tensors, path, metadata)


def read_metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty when it is missing or damaged."""
    try:
        with safetensors.safe_open(str(file), "np") as opened:
            return dict(opened.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return {}
