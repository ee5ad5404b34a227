"""Decoded stickers in one memory-mapped file: premultiplied RGBA bytes, and the box and colours of each.

Letters: N stickers, S side of the stored pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from microforge.data.skipped import Skipped
from microforge.data.stickers.catalogue import Sticker, catalogue_fingerprint
from microforge.data.stickers.recolor import StickerColors, profile
from microforge.errors import DataError
from microforge.io.atomic import atomic_bytes

_FORMATS = ("PNG", "WEBP")
#: Alpha at or below this, of 255, counts as nothing: soft shadows must not make a sticker look small.
_VISIBLE = 12

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class SpriteStore:
    """``pixels`` (N, S, S, 4) premultiplied; ``boxes`` (N, 4) left, top, right, bottom, all 0 where nothing can be used."""

    pixels: Bytes
    boxes: NDArray[np.int32]
    profiles: tuple[StickerColors, ...]
    skipped: tuple[Skipped, ...] = ()

    def usable(self, row: int) -> bool:
        """Whether anything can be seen in picture ``row``."""
        return bool(self.boxes[row, 2] > self.boxes[row, 0])

    def image(self, row: int) -> Image.Image:
        """Picture ``row`` as Pillow's premultiplied mode ``RGBa``."""
        side = self.pixels.shape[1]
        return Image.frombuffer(
            "RGBa", (side, side), np.ascontiguousarray(self.pixels[row]), "raw", "RGBa", 0, 1
        )


def open_store(
    folder: Path, stickers: Sequence[Sticker], cache: Path, console: Console, side: int = 256
) -> SpriteStore:
    """The store of ``stickers`` in ``cache``, made first when it is not there or the pictures changed.

    Raises:
        DataError: when not one picture can be used.
    """
    key = hashlib.sha256(f"2 {side} {catalogue_fingerprint(folder, stickers)}".encode()).hexdigest()[:16]
    path, index = cache / f"stickers-{key}.npy", cache / f"stickers-{key}.json"
    if not (path.is_file() and index.is_file()):
        _write(folder, stickers, path, index, console, side)
    rows = json.loads(index.read_text("utf-8"))
    boxes = np.array([row["box"] for row in rows], np.int32)
    profiles = tuple(
        StickerColors(tuple(row["mean"]), tuple(row["dominant"]), *row["shares"]) for row in rows
    )
    skipped = tuple(
        Skipped(item.file, "nothing can be seen in it, or it cannot be decoded")
        for item, box in zip(stickers, boxes, strict=True)
        if box[2] <= box[0]
    )
    if len(skipped) == len(stickers):
        raise DataError(f"none of the {len(stickers)} pictures in {folder} can be used ({stickers[0].file})")
    return SpriteStore(np.load(path, mmap_mode="r"), boxes, profiles, skipped)


def _write(
    folder: Path, stickers: Sequence[Sticker], path: Path, index: Path, console: Console, side: int
) -> None:
    """Decode everything into ``path``; both files appear whole, the boxes and colours last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        pixels: Bytes = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
            name, "w+", np.uint8, (len(stickers), side, side, 4)
        )
        rows = []
        for row, item in enumerate(track(stickers, "reading stickers", console=console, transient=True)):
            pixels[row] = decode_sprite(folder / item.file, side)
            colors = profile(pixels[row])
            shares = (round(colors.dominant_share, 4), round(colors.grey_share, 4))
            rows.append({
                "box": visible_box(pixels[row]), "mean": colors.mean, "dominant": colors.dominant, "shares": shares,
            })  # fmt: skip
        del pixels  # flushed
        os.replace(name, path)
        atomic_bytes(index, json.dumps(rows).encode("ascii"), force=True)
    finally:
        Path(name).unlink(missing_ok=True)


def decode_sprite(path: Path, side: int) -> Bytes:
    """A picture fitted into a square, premultiplied uint8 (S, S, 4); all zero when it cannot be decoded."""
    canvas = Image.new("RGBa", (side, side))
    try:
        with Image.open(path, formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise DataError("too many pixels")
            sprite = image.convert("RGBA").convert("RGBa")
        scale = side / max(sprite.size)
        size = (max(1, round(sprite.width * scale)), max(1, round(sprite.height * scale)))
        if size != sprite.size:
            sprite = sprite.resize(size, Image.Resampling.BICUBIC)
        canvas.paste(sprite, ((side - size[0]) // 2, (side - size[1]) // 2))
    except Exception:  # decoders raise whatever the broken bytes lead them to
        return np.zeros((side, side, 4), np.uint8)
    # Pillow 10 cannot turn RGBa into an array by itself
    return np.frombuffer(canvas.tobytes(), np.uint8).reshape(side, side, 4)


def visible_box(pixels: Bytes) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what can be seen in (S, S, 4); zeros when there is nothing."""
    rows, columns = (np.flatnonzero((pixels[..., 3] > _VISIBLE).any(axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
