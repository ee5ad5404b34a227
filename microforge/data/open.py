"""Opens a data set by its name: the procedural world, a folder of captioned images, or WebDataset shards."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from microforge.data.files.decode import SUFFIXES
from microforge.data.files.folders import list_folder
from microforge.data.files.image_source import Augmentation, PhotoSource
from microforge.data.files.shards import expand_shards, list_shards
from microforge.data.image_source import ImageSource
from microforge.data.world.image_source import SCENES, SceneSource
from microforge.errors import DataError, SpecError

ALLOWED = (
    "scenes (the built-in world), a folder of images with captions, a .tar shard, data/{000..127}.tar, "
    "or a folder of .tar shards"
)


def open_source(
    data: str, cache: Path, console: Console, augmentation: Augmentation | None = None
) -> ImageSource:
    """The source that ``--data`` names; what it holds is listed, no pixel is read yet.

    Args:
        data: ``scenes``, a folder, a ``.tar`` file, a brace or ``*`` pattern of them, or a folder of them.
        cache: folder for the shards' index files, made when there are any.

    Raises:
        DataError: when nothing is there, or nothing in it can be used.
        SpecError: for ``augmentation`` of the built-in world, whose captions it would falsify.
    """
    if data == SCENES:
        if augmentation not in (None, Augmentation()):
            raise SpecError("--flip and --random-crop belong to your own images, not to --data scenes")
        return SceneSource()
    path = Path(data)
    try:
        if data and path.is_dir():
            shards = sorted(item for item in path.iterdir() if item.suffix == ".tar" and item.is_file())
            if not shards or any(item.suffix.lower() in SUFFIXES for item in path.iterdir()):
                return PhotoSource(data, list_folder(path), console, augmentation)
        elif data.endswith(".tar") or path.is_file():
            shards = list(expand_shards(data))
        else:
            raise DataError(f"--data is {data!r}, which does not exist; allowed: {ALLOWED}")
        return PhotoSource(data, list_shards(shards, cache, console), console, augmentation)
    except OSError as error:
        raise DataError(f"--data {data}: {error.strerror or error}") from None
