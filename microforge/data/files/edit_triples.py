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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from microforge.data.edit_examples import Triples, inpaint_examples, super_resolve_examples, task_rng
from microforge.data.files.captioned import captions_of_row, is_clutter
from microforge.data.files.decode import SUFFIXES, Pixels, decode_image
from microforge.data.files.image_source import pixels_tensor
from microforge.data.files.metadata import METADATA, Row, is_metadata, read_rows
from microforge.data.files.names import NameIndex
from microforge.data.skipped import Skipped, printable
from microforge.data.world.masks import sample_mask
from microforge.errors import DataError
from microforge.io.image_decoding import read_image_file

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
                    decode_image(read_image_file(path), size) for path in (files.source, files.target)
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
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"--edits is {str(root)!r}, which {what}; allowed: a folder with a {METADATA}")
    metadata, images = _files(root)
    for path in metadata:
        where = path.relative_to(root).as_posix()
        for number, values in read_rows(path):
            name = f"{where} line {number}" if number else where
            row = _read_row(EditImages(root, path.parent, images), name, values)
            files.append(row) if isinstance(row, TripleFiles) else skipped.append(row)
    if not files:
        why = f"; {printable(skipped[0].name)}: {skipped[0].reason}" if skipped else ""
        raise DataError(
            f"{root} holds no usable edit{why}; write lines with source, instruction and target to {METADATA}"
        )
    return tuple(files), tuple(skipped)


@dataclass(frozen=True)
class EditImages:
    """The images of the folder ``root``, which the metadata in its subfolder ``folder`` names."""

    root: Path
    folder: Path
    index: NameIndex

    def find(self, name: str, value: str) -> Path | Skipped:
        """The image that the metadata calls ``value``; it must lie in ``root``. ``name`` is the row's."""
        base = self.folder.relative_to(self.root).as_posix()
        relative = posixpath.normpath(posixpath.join(base, value))
        if "\\" in relative and not (self.root / relative).is_file():  # written on Windows
            relative = posixpath.normpath(posixpath.join(base, value.replace("\\", "/")))
        if relative.startswith(("..", "/")) or "\0" in relative:
            return Skipped(f"{name} ({value})", "outside the folder")
        path = self.root / relative
        if path.suffix.lower() not in SUFFIXES:
            return Skipped(f"{name} ({value})", f"not an image; allowed: {', '.join(SUFFIXES)}")
        match = relative if path.is_file() else self.index.find(relative)
        return Skipped(f"{name} ({value})", "no such image") if match is None else self.root / match


def _files(root: Path) -> tuple[list[Path], NameIndex]:
    """The metadata files in ``root`` and its subfolders, and its images by relative path."""
    metadata: list[Path] = []
    images: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        metadata += [Path(folder) / name for name in sorted(names) if is_metadata(name)]
        base = Path(folder).relative_to(root).as_posix()
        images += [
            posixpath.normpath(posixpath.join(base, name))
            for name in names
            if posixpath.splitext(name)[1].lower() in SUFFIXES
        ]
    return metadata, NameIndex(images)


def _read_row(images: EditImages, name: str, row: Row) -> TripleFiles | Skipped:
    """The triple of a metadata row; a ``Skipped`` says why it cannot be used. Never raises."""
    if isinstance(row, str):
        return Skipped(name, row)
    instructions = captions_of_row(
        {**row, "text": row["instruction"]} if row.get("instruction") is not None else row
    )
    if isinstance(instructions, str):
        return Skipped(name, instructions.replace('"text" or "caption"', '"instruction" or "text"'))
    paths = []
    for columns in (_SOURCE, _TARGET):
        value = next((row[column] for column in columns if row.get(column) is not None), None)
        if not isinstance(value, str) or not value:
            return Skipped(name, f'no "{columns[0]}"')
        path = images.find(name, value)
        if isinstance(path, Skipped):
            return path
        paths.append(path)
    return TripleFiles(name, paths[0], instructions, paths[1])
