"""Opens a data set by its name: the procedural world, stickers, a mixture, a folder of images, or WebDataset shards."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rich.console import Console

from microforge.data.edit_examples import TripleSource
from microforge.data.files.decode import SUFFIXES
from microforge.data.files.edit_triples import FolderTriples
from microforge.data.files.folders import list_folder
from microforge.data.files.image_source import Augmentation, PhotoSource
from microforge.data.files.shards import expand_shards, list_shards
from microforge.data.image_source import ImageSource
from microforge.data.mixture import MixedSource, MixedTriples, Part
from microforge.data.stickers.edit_triples import StickerTriples
from microforge.data.stickers.image_source import PREFIX, StickerSource
from microforge.data.world.edit_triples import SceneTriples
from microforge.data.world.image_source import SCENES, SceneSource
from microforge.errors import DataError, SpecError

ALLOWED = (
    "scenes (the built-in world), stickers:FOLDER, a mixture of both such as scenes+3*stickers:FOLDER, "
    "a folder of images with captions, a .tar shard, data/{000..127}.tar, or a folder of .tar shards"
)
#: An address, or a pipe in the manner of webdataset.
_URL = re.compile(r"[a-z][a-z0-9+.-]*://|pipe:|(https?|s3|gs|hf|file):/", re.IGNORECASE)
#: ``3*stickers:FOLDER``: an optional weight, and a source that can be mixed.
_PART = re.compile(rf"(?:(\d+(?:\.\d+)?)\*)?({SCENES}|{PREFIX}.+)")
#: The plus signs between two of them; others belong to a folder's name.
_BETWEEN = re.compile(rf"\+(?=(?:\d+(?:\.\d+)?\*)?(?:{SCENES}(?:\+|$)|{PREFIX}))")


def open_source(
    data: str, cache: Path, console: Console, augmentation: Augmentation | None = None
) -> ImageSource:
    """Open the image source that ``--data`` names; files are listed, but no image is decoded yet.

    Args:
        data: ``scenes``, ``stickers:FOLDER``, both with ``+`` between them and perhaps ``WEIGHT*`` in front, a folder,
            a ``.tar`` file, a brace or ``*`` pattern of them, or a folder of them.
        cache: folder for the index files of shards and for decoded stickers; created when needed. The folder above it,
            a run's own, is passed over where it lies in the data.
        console: shows progress while files are listed and decoded.
        augmentation: flips and random crops; None for neither.

    Raises:
        DataError: when the path does not exist, or holds no usable image.
        SpecError: for an ``augmentation`` of scenes or stickers, whose captions it would make wrong.
    """
    parts = [match for word in _BETWEEN.split(data) if (match := _PART.fullmatch(word))]
    if not parts or len(parts) < len(_BETWEEN.split(data)):
        return _open_files(data, cache, console, augmentation)
    if augmentation not in (None, Augmentation()):
        raise SpecError(f"flip and random_crop belong to your own images, not to --data {data}")
    opened = []
    for part in parts:
        weight = float(part[1] or 1.0)
        if weight == 0.0:
            raise DataError(f"--data {data}: the weight of {part[2]} is {part[1]}; allowed: above 0")
        opened.append(Part(_open_part(part[2], cache, console), weight))
    return opened[0].source if len(opened) == 1 else MixedSource(opened)


def _open_part(word: str, cache: Path, console: Console) -> ImageSource:
    return SceneSource() if word == SCENES else StickerSource(Path(word.removeprefix(PREFIX)), cache, console)


def _open_files(data: str, cache: Path, console: Console, augmentation: Augmentation | None) -> ImageSource:
    path = Path(data)
    if _URL.match(data):
        raise DataError(
            f"--data is {data!r}, a URL, which is not read; download it first; allowed: {ALLOWED}"
        )
    try:
        if data and os.path.isdir(path):
            shards = sorted(
                item for item in path.iterdir() if item.suffix.lower() == ".tar" and item.is_file()
            )
            if not shards or any(item.suffix.lower() in SUFFIXES for item in path.iterdir()):
                return PhotoSource(data, list_folder(path, cache.parent), console, augmentation)
        elif data.lower().endswith(".tar") or os.path.isfile(path):
            shards = list(expand_shards(data))
        else:
            raise DataError(f"--data is {data!r}, which does not exist; allowed: {ALLOWED}")
        return PhotoSource(data, list_shards(shards, cache, console), console, augmentation)
    except OSError as error:
        raise DataError(f"--data {data}: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"--data is {data!r}: {error}") from None  # a null character


def makes_edits(data: str) -> bool:
    """Whether ``--data`` names worlds whose edits are made as they are needed: scenes, stickers, or a mixture of them."""
    return all(_PART.fullmatch(word) for word in _BETWEEN.split(data))


def open_triples(source: ImageSource, edits: str | None) -> TripleSource:
    """What the edit stage learns from: the folder ``edits``, or the edits of ``source``'s own world.

    Raises:
        DataError: when ``edits`` cannot be used, or is missing for images that have none of their own.
    """
    if edits is not None:
        return FolderTriples(Path(edits))
    if isinstance(source, MixedSource):
        return MixedTriples(source, [open_triples(part.source, None) for part in source.parts])
    if isinstance(source, StickerSource):
        return StickerTriples(source)
    if isinstance(source, SceneSource):
        return SceneTriples()
    raise DataError(f"{source.name} has no edits of its own; give a folder of them (--set edits=FOLDER)")
