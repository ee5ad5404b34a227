"""A user's own edits: a folder of source images, instructions and target images.

``metadata.jsonl`` files hold one JSON object a line, as the Hugging Face ``imagefolder`` loader reads them
(https://huggingface.co/docs/datasets/image_dataset) and in the manner of InstructPix2Pix (arXiv 2211.09800)::

    {"source": "before/1.png", "instruction": "make it blue", "target": "after/1.png"}

``source_file_name`` and ``target_file_name``, and ``text``, are taken as well; a list of instructions is several
for the same pair. Paths are relative to the metadata's own folder. What cannot be used is skipped with a reason,
and only a folder without a single usable triple is an error.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
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

#: What a column may be called, the first one found counts.
_SOURCE, _TARGET = ("source", "source_file_name"), ("target", "target_file_name")


@dataclass(frozen=True, slots=True)
class TripleFiles:
    """One pair of images and its instructions; ``name`` is what messages call it."""

    name: str
    source: Path
    instructions: tuple[str, ...]
    target: Path


class FolderTriples:
    """The triples of one folder, decoded as they are needed.

    Inpainting and super-resolution learn from the target images; they have no words there, as an
    instruction does not say what an image shows.
    """

    def __init__(self, root: Path) -> None:
        """List what is below ``root``; no pixel is read.

        Raises:
            DataError: when it cannot be read, or holds no usable triple.
        """
        self.name = str(root)
        self.files, found = list_triples(root)
        self._broken: dict[int, Skipped] = {}
        self._listed = found

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was left out so far; broken images are found when their turn comes."""
        return (*self._listed, *self._broken.values())

    def triples(
        self, task: str, seed: int, step: int, count: int, rows: Sequence[int], size: tuple[int, int], device: str
    ) -> Triples:  # fmt: skip
        """See ``TripleSource``.

        Raises:
            DataError: when not one triple can be decoded.
        """
        rng = task_rng(task, seed, step)
        places = rng.integers(0, len(self.files), count)
        seeds = rng.integers(0, 2**63, count)
        pairs = [self._decoded(int(places[row]), size) for row in rows]
        rngs = [np.random.default_rng(seeds[row]) for row in rows]
        targets = pixels_tensor([target for _, _, target in pairs], device)
        if task == "edit":
            texts = tuple(
                files.instructions[int(own.integers(len(files.instructions)))]
                for (files, _, _), own in zip(pairs, rngs, strict=True)
            )
            return Triples(pixels_tensor([source for _, source, _ in pairs], device), texts, targets)
        silent = (None,) * len(pairs)
        if task == "inpaint":
            masks = torch.stack([sample_mask(own, *size) for own in rngs])
            return inpaint_examples(targets, silent, masks.to(device))
        return super_resolve_examples(targets, silent, rngs)

    def _decoded(self, place: int, size: tuple[int, int]) -> tuple[TripleFiles, Pixels, Pixels]:
        """The triple ``place``, or the next one after it whose images are whole."""
        for offset in range(len(self.files)):
            index = (place + offset) % len(self.files)
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
        raise DataError(f"not one triple of {self.name} can be used ({reason})")


def list_triples(root: Path) -> tuple[tuple[TripleFiles, ...], tuple[Skipped, ...]]:
    """The triples below ``root`` in the order of its metadata, and what was left out.

    Raises:
        DataError: when ``root`` cannot be read, or holds no usable triple.
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
            found = _read_row(root, path.parent, f"{where} line {number}", line)
            files.append(found) if isinstance(found, TripleFiles) else skipped.append(found)
    if not files:
        why = f"; {printable(skipped[0].name)}: {skipped[0].reason}" if skipped else ""
        raise DataError(
            f"{root} holds no usable edit{why}; write lines with source, instruction and target to {METADATA}"
        )
    return tuple(files), tuple(skipped)


def _metadata_files(root: Path) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        found += [Path(folder) / name for name in names if name == METADATA]
    return found


def _read_row(root: Path, folder: Path, name: str, line: bytes) -> TripleFiles | Skipped:
    """One line of a ``metadata.jsonl``, or why it cannot be used. Never raises."""
    row = parse_object(line)
    if isinstance(row, str):
        return Skipped(name, row)
    words = captions_of_row(
        {**row, "text": row["instruction"]} if row.get("instruction") is not None else row
    )
    if isinstance(words, str):
        return Skipped(name, words.replace('"text" or "caption"', '"instruction" or "text"'))
    paths = []
    for columns in (_SOURCE, _TARGET):
        value = next((row[column] for column in columns if row.get(column) is not None), None)
        if not isinstance(value, str) or not value:
            return Skipped(name, f'no "{columns[0]}"')
        inside = posixpath.normpath(posixpath.join(folder.relative_to(root).as_posix(), value))
        if inside.startswith(("..", "/")) or "\0" in inside:
            return Skipped(f"{name} ({value})", "outside the folder")
        path = root / inside
        if path.suffix.lower() not in SUFFIXES:
            return Skipped(f"{name} ({value})", f"not an image; allowed: {', '.join(SUFFIXES)}")
        if not path.is_file():
            return Skipped(f"{name} ({value})", "no such image")
        paths.append(path)
    return TripleFiles(name, paths[0], words, paths[1])
