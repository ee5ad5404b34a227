"""Whether an output of a command is whole, and whether it is the old or the new one."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

from microforge.bundle.files import load_bundle
from microforge.checkpoint import Checkpoint, read_checkpoint

ABSENT, OLD, NEW = "absent", "old", "new"


def bundle_state(path: Path, old: str, new: str) -> str:
    """State of a bundle, a folder or an archive; ``old`` and ``new`` are SHA-256 of the checkpoints that they were made of.

    Raises:
        Exception: of any kind when it is not whole: every file is hashed.
    """
    if not path.exists():
        return ABSENT
    bundle = load_bundle(path)
    for entry in bundle.files():
        bundle.checked(entry)
    return {old: OLD, new: NEW}[bundle.manifest.provenance.checkpoint_sha256]


def image_state(path: Path, old: bytes, new: bytes) -> str:
    """State of an image file, which must be one of two files byte by byte."""
    if not path.exists():
        return ABSENT
    Image.open(path).load()
    return {old: OLD, new: NEW}[path.read_bytes()]


def checkpoint_state(path: Path, old: Checkpoint) -> str:
    """State of a checkpoint: ``old``, or any other that can be read and whose weights are finite.

    Raises:
        Exception: of any kind when it is not whole.
    """
    if not path.exists():
        return ABSENT
    return OLD if read_checkpoint(path).sha256 == old.sha256 else NEW


def equal_weights(first: Path, second: Path) -> bool:
    """Whether two safetensors files hold the same tensors, bit for bit."""
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def hidden(folder: Path) -> list[str]:
    """Names of the hidden files and folders in ``folder`` and below, which a command that has ended must not leave.

    What is empty does not count: for a minute it may stay (``microforge.io.leftovers``).
    """
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*") if not _is_empty(path))


def _is_empty(path: Path) -> bool:
    if path.is_dir():
        return {item.name for item in path.iterdir()} <= {"lock.new"}
    return path.stat().st_size == 0
