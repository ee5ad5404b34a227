"""Image source over captioned images on disk: cropped to size, in an order fixed by seed and step.

A data set that fits in ``RAM_BUDGET`` at the training size is decoded once and stays in memory as uint8. Images of a
larger one are decoded when they are needed, by a few threads (Pillow releases the interpreter lock while it decodes).
An image that cannot be decoded is reported as skipped and replaced by the next one.

Letters: B images, H W image height and width.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from microforge.data.files.captioned import CaptionedImage, Listing
from microforge.data.files.decode import Pixels, decode_image
from microforge.data.order import CHUNK, PART, ExamplePlan, Examples, epoch_rows, step_rng
from microforge.data.pixels import from_uint8
from microforge.data.skipped import Skipped, printable
from microforge.errors import DataError
from microforge.streams import FixedSeed

#: Largest size in bytes of decoded images in memory, per process.
RAM_BUDGET = 2 << 30
#: Smallest data set of which images are held out from training for sample sheets, and how many are.
ENOUGH_TO_HOLD_OUT = 100
HELD_OUT = 8
MAX_WORKERS = 8
#: Consecutive images that cannot be decoded after which the run stops: all of them must be damaged.
MAX_BROKEN_RUN = 100


@dataclass(frozen=True)
class Augmentation:
    """Data augmentation. Both kinds are off by default, because captions may say "left" or "at the edge"."""

    flip: bool = False  # mirror images horizontally with probability 1/2
    random_crop: bool = False  # crop at a random position along the longer side, not at the centre


class PhotoSource:
    """Image source over the captioned images of a ``Listing``; ``name`` identifies it in messages."""

    def __init__(
        self, name: str, listing: Listing, console: Console, augmentation: Augmentation | None = None,
        ram_budget: int = RAM_BUDGET,
    ) -> None:  # fmt: skip
        self.name, self.augmentation = name, augmentation or Augmentation()
        self._console, self._ram_budget = console, ram_budget
        self._all = listing.images
        self._listed = listing.skipped
        self._broken: dict[int, str] = {}  # row -> why it cannot be decoded; names need not be unique
        self._fingerprint = listing.fingerprint
        self._size: tuple[int, int] | None = None
        self._stored: dict[int, Pixels] = {}  # row -> pixels; empty when they do not fit in memory
        self._train, self._held = _split(self._all)
        self._planned = tuple(self._train)  # the cache's plan is the same before and after decoding

    @property
    def fingerprint(self) -> str:
        return f"{self._fingerprint} flip={self.augmentation.flip}"  # examples are mirrored, but always cropped at the centre

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        broken = [Skipped(self._all[row].name, reason) for row, reason in sorted(self._broken.items())]
        return tuple(sorted((*self._listed, *broken), key=lambda item: item.name))

    @property
    def _copies(self) -> int:
        return 2 if self.augmentation.flip else 1

    def describe(self) -> str:
        held_out = sum(row not in self._broken for row in self._held)
        count = held_out + sum(row not in self._broken for row in self._train)
        sheets = (
            f"{held_out} held out for sample sheets" if held_out else "sample sheets show training images"
        )
        return f"{self.name}: {count} captioned images, {sheets}"

    def prepare(self, size: tuple[int, int]) -> None:
        """Decode all images at ``size`` when they fit in the budget; later calls for the same size do nothing."""
        if self._size == size:
            return
        self._size, self._stored = size, {}
        spare = 4 if self.augmentation.random_crop else 1
        if len(self._all) * 3 * size[0] * size[1] * spare <= self._ram_budget:
            self._decode_all(size)

    def images(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        """Training images, each once per epoch; crops of size ``crop`` have random positions."""
        self.prepare(size)
        indices = epoch_rows(seed, step, count, len(self._train))[rows]
        rng = step_rng(seed, step)
        positions, mirrored = rng.random((count, 2))[rows], (rng.random(count) < 0.5)[rows]
        pixels = self._load(self._train, indices.tolist(), size)
        crops = [
            _crop(image, crop or size, position, bool(flip) and self.augmentation.flip)
            for image, position, flip in zip(pixels, positions.tolist(), mirrored, strict=True)
        ]
        return pixels_tensor(crops, device)

    def images_with_alpha(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        raise DataError(
            f"{self.name} does not say what is an object; alpha is learnt from scenes, or stickers:FOLDER"
        )

    def sheet(self, count: int, size: tuple[int, int], device: str) -> Tensor:
        """Held-out images, or the first training images of a small data set."""
        self.prepare(size)
        pool = self._held or self._train
        pixels = self._load(pool, range(min(count, len(pool))), size)
        return pixels_tensor([_crop(image, size) for image in pixels], device)

    def statistics(self, count: int, size: tuple[int, int], device: str) -> Iterator[Tensor]:
        """Training images: statistics are those of the training set (SPEC section 3)."""
        self.prepare(size)
        total = len(self._train)
        indices = epoch_rows(FixedSeed.STATISTICS, 0, min(count, total), total).tolist()
        for first in range(0, len(indices), CHUNK):
            pixels = self._load(self._train, indices[first : first + CHUNK], size)
            yield pixels_tensor([_crop(image, size) for image in pixels], device)

    def plan(self, images: int, captions: int, seed: int) -> ExamplePlan:
        """All training images with all their captions; the arguments are ignored, and the order needs no seed."""
        columns = max(len(self._all[row].captions) for row in self._planned)
        return ExamplePlan(len(self._planned) * self._copies, columns, 0)

    def examples(
        self, plan: ExamplePlan, part: int, size: tuple[int, int], device: str
    ) -> Iterator[Examples]:
        """Centre crops, each followed by its mirror image with ``flip``; damaged images are left out."""
        copies = self._copies
        last = min((part + 1) * PART, len(self._planned) * copies)
        for first in range(part * PART, last, CHUNK):
            chunk = range(first, min(first + CHUNK, last))
            rows = [self._planned[number // copies] for number in chunk]
            usable = [
                (_crop(pixels, size, mirror=number % copies > 0), self._all[row].captions)
                for number, row, pixels in zip(chunk, rows, self._pixels(rows, size), strict=True)
                if pixels is not None
            ]
            if usable:
                crops, captions = zip(*usable, strict=True)
                yield pixels_tensor(crops, device), [_repeated(texts, plan.captions) for texts in captions]

    def prompts(self, count: int) -> tuple[str, ...]:
        """The first caption of each of the first images, without duplicates."""
        firsts = dict.fromkeys(image.captions[0] for image in self._all)
        return tuple(itertools.islice(firsts, count))

    def _decode_all(self, size: tuple[int, int]) -> None:
        rows = range(len(self._all))
        bar = track(
            self._pixels(rows, size), "reading images", len(rows), console=self._console, transient=True
        )
        stored = {row: pixels for row, pixels in zip(rows, bar, strict=True) if pixels is not None}
        if not stored:
            row, reason = min(self._broken.items())
            raise DataError(
                f"none of the {len(rows)} images in {self.name} can be used ({printable(self._all[row].name)}: {reason})"
            )
        self._stored = stored
        self._train, self._held = (
            [row for row in split if row in stored] for split in (self._train, self._held)
        )
        self._train = self._train or self._held

    def _pixels(self, rows: Sequence[int], size: tuple[int, int]) -> Iterator[Pixels | None]:
        """Decoded images in the order of ``rows``; None where one cannot be decoded."""
        if self._stored and self._size == size:
            yield from (self._stored.get(row) for row in rows)
            return
        with ThreadPoolExecutor(_workers()) as threads:
            yield from threads.map(lambda row: self._decode(row, size), rows)

    def _load(self, pool: Sequence[int], indices: Sequence[int], size: tuple[int, int]) -> list[Pixels]:
        """Images at ``indices`` of ``pool``; one that cannot be decoded is replaced by the next one that can."""
        images = list(self._pixels([pool[index] for index in indices], size))
        return [
            pixels if pixels is not None else self._next_usable(pool, index, size)
            for index, pixels in zip(indices, images, strict=True)
        ]

    def _next_usable(self, pool: Sequence[int], index: int, size: tuple[int, int]) -> Pixels:
        for offset in range(1, min(len(pool), MAX_BROKEN_RUN)):
            pixels = self._decode(pool[(index + offset) % len(pool)], size)
            if pixels is not None:
                return pixels
        image = self._all[pool[index]]
        raise DataError(
            f"{min(len(pool), MAX_BROKEN_RUN)} images in a row of {self.name} cannot be decoded "
            f"({printable(image.name)}: {self._broken[pool[index]]})"
        )

    def _decode(self, row: int, size: tuple[int, int]) -> Pixels | None:
        image = self._all[row]
        if row in self._broken:
            return None
        try:
            return decode_image(image.read(), size, self.augmentation.random_crop)
        except (DataError, OSError) as error:
            self._broken[row] = str(error)
            return None


def _split(images: Sequence[CaptionedImage]) -> tuple[list[int], list[int]]:
    """Training and held-out rows. Names with the lowest hashes are held out, so adding images changes little."""
    rows = range(len(images))
    if len(rows) < ENOUGH_TO_HOLD_OUT:
        return list(rows), []
    held_out = sorted(rows, key=lambda row: hashlib.sha256(_encoded(images[row].name)).digest())[:HELD_OUT]
    return sorted(set(rows) - set(held_out)), sorted(held_out)


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _crop(
    image: Pixels, size: tuple[int, int], position: Sequence[float] = (0.5, 0.5), mirror: bool = False
) -> Pixels:
    """A crop of ``size`` (height, width) from ``image`` (h, w, 3); ``position`` is in [0, 1) on both axes."""
    top, left = (int(share * (image.shape[axis] - size[axis] + 1)) for axis, share in enumerate(position))
    crop = image[top : top + size[0], left : left + size[1]]
    return crop[:, ::-1] if mirror else crop


def pixels_tensor(images: Sequence[Pixels], device: str) -> Tensor:
    """Stack uint8 images (h, w, 3) of one size to float32 (B, 3, h, w) in [0, 1]."""
    pixels = torch.from_numpy(np.stack(images)).to(device)  # uint8 to the device: a quarter of the transfer
    planes = pixels.permute(0, 3, 1, 2).contiguous()  # otherwise convolutions would treat it as channels_last
    return from_uint8(planes)  # (B, 3, H, W)


def _repeated(captions: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(itertools.islice(itertools.cycle(captions), count))


def _workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, cores)
