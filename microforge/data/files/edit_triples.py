"""A folder of edits: source images, instructions and target images.

``metadata.jsonl`` files hold one JSON object per line, as the Hugging Face ``imagefolder`` loader reads them
(https://huggingface.co/docs/datasets/image_dataset) and in the manner of InstructPix2Pix (arXiv 2211.09800)::

    {"source": "before/1.png", "instruction": "make it blue", "target": "after/1.png"}

``source_file_name``, ``target_file_name`` and ``text`` are accepted as well. A list of instructions gives several for
one pair of images. Paths are relative to the folder of the metadata. Unusable lines and images are skipped with a
reason; only a folder without any usable triple is an error.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from microforge.data.edit_examples import Triples, inpaint_examples, super_resolve_examples, task_rng
from microforge.data.files.captioned import captions_of_row, is_clutter, numbered_lines, parse_object
from microforge.data.files.decode import SUFFIXES, Pixels, decode_image
from microforge.data.files.folders import METADATA
from microforge.data.files.image_source import pixels_tensor
from microforge.data.skipped import Skipped, printable
from microforge.data.world.masks import sample_mask
from microforge.errors import DataError

#: Accepted names of a column, in the order in which they are tried.
_SOURCE, _TARGET = ("source", "source_file_name"), ("target", "target_file_name")


@dataclass(frozen=True, slots=True)
class TripleFiles:
    """Files of one pair of images, and its instructions; ``name`` identifies it in messages."""

    name: str
    source: Path
    instructions: tuple[str, ...]
    target: Path


class FolderTriples:
    """Triples of a folder, decoded when they are needed.

    Inpainting and super-resolution use the target images with the empty prompt, because an instruction does not describe
    an image.
    """

    def __init__(self, root: Path) -> None:
        """List the triples in ``root``; no image is decoded.

        Raises:
            DataError: when ``root`` cannot be read, or has no usable triple.
        """
        self.name = str(root)
        self.files, self._listed = list_triples(root)
        self._broken: dict[int, Skipped] = {}

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Files that could not be used so far; damaged images are noticed when they are decoded."""
        return (*self._listed, *self._broken.values())

    def triples(
        self, task: str, seed: int, step: int, count: int, rows: Sequence[int], size: tuple[int, int], device: str
    ) -> Triples:  # fmt: skip
        """See ``TripleSource``.

        Raises:
            DataError: when no triple can be decoded.
        """
        rng = task_rng(task, seed, step)
        indices = rng.integers(0, len(self.files), count)
        seeds = rng.integers(0, 2**63, count)
        pairs = [self._decode(int(indices[row]), size) for row in rows]
        rngs = [np.random.default_rng(seeds[row]) for row in rows]
        targets = pixels_tensor([target for _, _, target in pairs], device)
        if task == "edit":
            texts = tuple(
                files.instructions[int(row_rng.integers(len(files.instructions)))]
                for (files, _, _), row_rng in zip(pairs, rngs, strict=True)
            )
            return Triples(pixels_tensor([source for _, source, _ in pairs], device), texts, targets)
        empty_prompts = (None,) * len(pairs)
        if task == "inpaint":
            masks = torch.stack([sample_mask(row_rng, *size) for row_rng in rngs])
            return inpaint_examples(targets, empty_prompts, masks.to(device))
        return super_resolve_examples(targets, empty_prompts, rngs)

    def _decode(self, first: int, size: tuple[int, int]) -> tuple[TripleFiles, Pixels, Pixels]:
        """Decode triple ``first``, or the next one that can be decoded."""
        for offset in range(len(self.files)):
            index = (first + offset) % len(self.files)
            if index in self._broken:
                continue
            files = self.files[index]
            try:
                source, target = (
                    decode_image(path.read_bytes(), size) for path in (files.source, files.target)
                )
            except (OSError, DataError) as error:
                self._broken[index] = Skipped(files.name, str(error))
                continue
            return files, source, target
        reason = next(iter(self._broken.values())).reason
        raise DataError(f"no triple of {self.name} can be used ({reason})")


def list_triples(root: Path) -> tuple[tuple[TripleFiles, ...], tuple[Skipped, ...]]:
    """List the triples in ``root`` in the order of its metadata, and the lines that were left out.

    Raises:
        DataError: when ``root`` cannot be read, or has no usable triple.
    """
    files: list[TripleFiles] = []
    skipped: list[Skipped] = []
    metadata = _metadata_files(root)
    for path in metadata:
        where = path.relative_to(root).as_posix()
        try:
            data = path.read_bytes()
        except OSError as error:
            skipped.append(Skipped(where, f"cannot be read: {error.strerror or error}"))
            continue
        for number, line in numbered_lines(data):
            row = _read_row(root, path.parent, f"{where} line {number}", line)
            files.append(row) if isinstance(row, TripleFiles) else skipped.append(row)
    if not files:
        why = f"; {printable(skipped[0].name)}: {skipped[0].reason}" if skipped else ""
        raise DataError(
            f"{root} holds no usable edit{why}; write lines with source, instruction and target to {METADATA}"
        )
    return tuple(files), tuple(skipped)


def _metadata_files(root: Path) -> list[Path]:
    paths = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        paths += [Path(folder) / name for name in names if name == METADATA]
    return paths


def _read_row(root: Path, folder: Path, name: str, line: bytes) -> TripleFiles | Skipped:
    """Parse one line of a ``metadata.jsonl``; a ``Skipped`` says why it cannot be used. Never raises."""
    row = parse_object(line)
    if isinstance(row, str):
        return Skipped(name, row)
    instructions = captions_of_row(
        {**row, "text": row["instruction"]} if row.get("instruction") is not None else row
    )
    if isinstance(instructions, str):
        return Skipped(name, instructions.replace('"text" or "caption"', '"instruction" or "text"'))
    paths = []
    for columns in (_SOURCE, _TARGET):
        path = _image_path(root, folder, name, row, columns)
        if isinstance(path, Skipped):
            return path
        paths.append(path)
    return TripleFiles(name, paths[0], instructions, paths[1])


def _image_path(
    root: Path, folder: Path, name: str, row: Mapping[str, object], columns: Sequence[str]
) -> Path | Skipped:
    """Path of the image in the first of ``columns`` that ``row`` has; it must lie in ``root``."""
    value = next((row[column] for column in columns if row.get(column) is not None), None)
    if not isinstance(value, str) or not value:
        return Skipped(name, f'no "{columns[0]}"')
    relative = posixpath.normpath(posixpath.join(folder.relative_to(root).as_posix(), value))
    if relative.startswith(("..", "/")) or "\0" in relative:
        return Skipped(f"{name} ({value})", "outside the folder")
    path = root / relative
    if path.suffix.lower() not in SUFFIXES:
        return Skipped(f"{name} ({value})", f"not an image; allowed: {', '.join(SUFFIXES)}")
    return path if path.is_file() else Skipped(f"{name} ({value})", "no such image")
