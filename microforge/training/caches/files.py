"""Safetensors files of a cache: written whole or not at all, with a key that says what they were computed from."""

from __future__ import annotations

import os
from pathlib import Path

import safetensors
from safetensors.torch import save_file
from torch import Tensor


def write_atomically(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file through a temporary one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata)
    os.replace(temporary, file)


def read_metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty when it is missing or damaged."""
    try:
        with safetensors.safe_open(str(file), "np") as opened:
            return dict(opened.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return {}
