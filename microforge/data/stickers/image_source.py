"""``--data stickers:FOLDER``: images of stickers as training data, through the protocol of every source.

Letters: B images, H W image height and width.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from microforge.data.order import CHUNK, PART, ExamplePlan, Examples, epoch_rows, step_rng
from microforge.data.skipped import Skipped
from microforge.data.stickers.arrangements import MOST, arrange
from microforge.data.stickers.captions import canonical_caption, sticker_caption
from microforge.data.stickers.catalogue import catalogue_fingerprint, read_catalogue
from microforge.data.stickers.compositing import Background, Layers, Pixels, Placement, Window, paint
from microforge.data.stickers.scene_painting import paint_scenes
from microforge.data.stickers.scenes import sample_sticker_scene
from microforge.data.stickers.splits import held_out_picture, held_out_subject
from microforge.data.stickers.store import SpriteStore, open_store
from microforge.data.stickers.world import ENOUGH_TO_HOLD_OUT, StickerWorld
from microforge.errors import DataError
from microforge.streams import FixedSeed, StepStream

#: What ``--data`` begins with.
PREFIX = "stickers:"
#: Longer side of a held-out sticker in the image that it is judged in, of the image's shorter one.
SHEET_SHARE = 0.86
_WHITE = Background((1.0, 1.0, 1.0))


class StickerSource:
    """An ``ImageSource`` over a folder of stickers."""

    def __init__(self, folder: Path, cache: Path, console: Console) -> None:
        """List the stickers of ``folder``; their pixels are read by ``prepare``, into a file in ``cache``.

        Raises:
            DataError: when there are none.
        """
        self.name = f"{PREFIX}{folder}"
        self.stickers = read_catalogue(folder)
        self._folder, self._cache, self._console = folder, cache, console
        self._fingerprint = catalogue_fingerprint(folder, self.stickers)
        self._store: SpriteStore | None = None
        self._world: StickerWorld | None = None
        rows = range(len(self.stickers))
        enough = len(self.stickers) >= ENOUGH_TO_HOLD_OUT
        pictures = {
            row
            for row in rows
            if enough and held_out_picture(self.stickers[row].subject, self.stickers[row].style)
        }
        subjects = {row for row in rows if enough and held_out_subject(self.stickers[row].subject)}
        #: Rows that no stage trains on, whose subject is seen in other styles; and those of subjects the VAE never sees.
        self.held_pictures: tuple[int, ...] = tuple(sorted(pictures - subjects))
        self.held_subjects: tuple[int, ...] = tuple(sorted(subjects))
        self._train = [row for row in rows if row not in pictures | subjects]

    @functools.cached_property
    def fingerprint(self) -> str:
        """The stickers, and a few scenes and captions of theirs: another version's world or grammar makes other ones."""
        self.prepare((256, 256))
        rng = np.random.default_rng(0)
        scenes = [sample_sticker_scene(self.world, rng) for _ in range(CHUNK)]
        made = repr([(scene, sticker_caption(self.world, scene, rng)) for scene in scenes])
        return f"stickers {self._fingerprint} {hashlib.sha256(made.encode()).hexdigest()}"

    def __getstate__(self) -> dict[str, object]:
        """For worker processes: they map the decoded pictures from the same file."""
        return {**self.__dict__, "_store": None, "_world": None}

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return () if self._store is None else self._store.skipped

    @property
    def store(self) -> SpriteStore:
        """The decoded pictures.

        Raises:
            DataError: before ``prepare``.
        """
        if self._store is None:
            raise DataError(f"{self.name} was not prepared")
        return self._store

    @property
    def world(self) -> StickerWorld:
        """What scenes are made of.

        Raises:
            DataError: before ``prepare``.
        """
        if self._world is None:
            raise DataError(f"{self.name} was not prepared")
        return self._world

    def describe(self) -> str:
        styles = dict.fromkeys(item.style for item in self.stickers)
        subjects = {item.subject for item in self.stickers}
        held = len(self.held_pictures) + len(self.held_subjects)
        return (
            f"{self.name}: {len(self.stickers)} stickers of {len(subjects)} subjects in {len(styles)} styles "
            f"({', '.join(styles)}), {held} held out"
        )

    def prepare(self, size: tuple[int, int]) -> None:
        """Decode every sticker once; later runs map the same file."""
        if self._store is None:
            self._store = open_store(self._folder, self.stickers, self._cache, self._console)
            self._world = StickerWorld(self.stickers, self._store)
            self._train = [row for row in self._train if self._store.usable(row)]
            self.held_pictures, self.held_subjects = (
                tuple(row for row in rows if self._store.usable(row))
                for rows in (self.held_pictures, self.held_subjects)
            )

    def images(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        """Every sticker is once an epoch the first one of an image; windows of ``crop`` each show part of a sticker."""
        return self._images(seed, step, count, size, device, crop, rows)

    def images_with_alpha(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        return self._images(seed, step, count, size, device, crop, rows, alpha=True)

    def _images(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None, rows: slice, alpha: bool = False,
    ) -> Tensor:  # fmt: skip
        self.prepare(size)
        firsts = epoch_rows(seed, step, count, len(self._train))[rows]
        rngs = step_rng(seed, step).spawn(count)[rows]
        painted = [
            self._image(rng, self._train[int(first)], size, crop, alpha)
            for rng, first in zip(rngs, firsts, strict=True)
        ]
        return _tensor(painted, device)

    def sheet(self, count: int, size: tuple[int, int], device: str) -> Tensor:
        """Held-out stickers, large on white: subjects that the autoencoder never sees first."""
        self.prepare(size)
        every = (*self.held_subjects, *self.held_pictures) or tuple(self._train)
        chosen = [every[index * len(every) // count] for index in range(min(count, len(every)))]
        return self.portraits(chosen, size, device)

    def portraits(self, rows: Sequence[int], size: tuple[int, int], device: str) -> Tensor:
        """Stickers ``rows`` alone in the middle on white, float32 (B, 3, H, W)."""
        return _tensor([paint(_portrait(row, self.store, size), self.store, size) for row in rows], device)

    def portraits_with_alpha(self, rows: Sequence[int], size: tuple[int, int], device: str) -> Tensor:
        """As ``portraits``, with a fourth channel, float32 (B, 4, H, W): how much of each pixel the sticker covers."""
        layers = (_portrait(row, self.store, size) for row in rows)
        return _tensor([paint(item, self.store, size, alpha=True) for item in layers], device)

    def statistics(self, count: int, size: tuple[int, int], device: str) -> Iterator[Tensor]:
        for part in range(max(1, count // CHUNK)):
            yield self.images(FixedSeed.STATISTICS, part, CHUNK, size, device)

    def plan(self, images: int, captions: int, seed: int) -> ExamplePlan:
        return ExamplePlan(images, captions, seed)

    def examples(
        self, plan: ExamplePlan, part: int, size: tuple[int, int], device: str
    ) -> Iterator[Examples]:
        """Scenes of stickers and shapes, each with captions in several languages; nothing held out."""
        self.prepare(size)
        rng = step_rng(plan.seed, StepStream.LATENT_CACHE + part)
        scenes = [sample_sticker_scene(self.world, rng) for _ in range(min(PART, plan.images - part * PART))]
        texts = [
            tuple(sticker_caption(self.world, scene, rng) for _ in range(plan.captions)) for scene in scenes
        ]
        for first in range(0, len(scenes), CHUNK):
            chunk = slice(first, first + CHUNK)
            yield paint_scenes(scenes[chunk], self.store, size, device), texts[chunk]

    def prompts(self, count: int) -> tuple[str, ...]:
        """Plain captions of scenes that training may show, one of them in another language."""
        self.prepare((256, 256))
        rng = np.random.default_rng(FixedSeed.UNSEEN_SCENES)
        kinds = ("portrait", "portrait", "counting", "two", "position", "attribute")
        scenes = [sample_sticker_scene(self.world, rng, kinds[index % len(kinds)]) for index in range(count)]
        return tuple(
            canonical_caption(self.world, scene, "es" if index == 7 else "en", style=index % 6 == 1)
            for index, scene in enumerate(scenes)
        )

    def _image(
        self, rng: np.random.Generator, first: int, size: tuple[int, int], crop: tuple[int, int] | None,
        alpha: bool,
    ) -> Pixels:  # fmt: skip
        others = [self._train[int(index)] for index in rng.integers(len(self._train), size=MOST - 1)]
        layers = arrange(rng, first, others, self.store, size)
        window = None if crop is None else _window(rng, layers, size, crop)
        if alpha:
            return paint(layers, self.store, size, window, alpha=True)
        return paint(layers, self.store, size, window)


def _window(rng: np.random.Generator, layers: Layers, size: tuple[int, int], crop: tuple[int, int]) -> Window:
    """A window around a random point of one of the stickers: flat windows teach little."""
    place = layers.placements[int(rng.integers(len(layers.placements)))]
    x, y = place.left + rng.random() * place.width, place.top + rng.random() * place.height
    left, top = (
        int(np.clip(point - rng.random() * part, 0, whole - part))
        for point, part, whole in ((x, crop[1], size[1]), (y, crop[0], size[0]))
    )
    return Window(left, top, crop[1], crop[0])


def _portrait(row: int, store: SpriteStore, size: tuple[int, int]) -> Layers:
    left, top, right, bottom = (int(value) for value in store.boxes[row])
    scale = SHEET_SHARE * min(size) / max(right - left, bottom - top)
    width, height = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    place = Placement(row, (size[1] - width) // 2, (size[0] - height) // 2, width, height)
    return Layers(_WHITE, (place,))


def _tensor(images: Sequence[Pixels], device: str) -> Tensor:
    """(h, w, C) images as float32 (B, C, h, w)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().to(device)
