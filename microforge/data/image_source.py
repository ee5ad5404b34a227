"""Where training images come from: the procedural world, a folder, or shards, all through one protocol.

Letters: B images, H W image height and width.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from microforge.data.captioned import Skipped
from microforge.data.captions import caption
from microforge.data.decode import SUFFIXES
from microforge.data.folders import list_folder
from microforge.data.order import CACHE_STREAM, PART, ExamplePlan, Examples, step_rng
from microforge.data.photos import CHUNK, STATISTICS_SEED, Augmentation, PhotoSource
from microforge.data.renderer import render
from microforge.data.scenes import Scene, sample_scene
from microforge.data.shards import expand_shards, list_shards
from microforge.errors import DataError, SpecError

SCENES = "scenes"
ALLOWED = (
    "scenes (the built-in world), a folder of images with captions, a .tar shard, data/{000..127}.tar, "
    "or a folder of .tar shards"
)
#: Seed of scenes that training never draws.
SHEET_SEED = 1_000_003
#: What the flow's sample sheets show for the built-in world, at seed 0.
SHEET_PROMPTS = (
    "a red circle", "a blue square on a white background", "a green triangle on the left",
    "a yellow star on a black background", "a small pink heart", "a large orange ring", "two purple diamonds",
    "three blue circles", "a red square and a green circle", "a yellow heart left of a blue star",
    "a cyan cross above a brown triangle", "a white circle on a gray background",
)  # fmt: skip


class ImageSource(Protocol):
    """What training asks of its data. Images are float32 (B, 3, H, W) in [0, 1], ``size`` is (height, width)."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Changes whenever ``examples`` would: it keys the latent cache."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was left out so far."""

    def describe(self) -> str:
        """One line about the data."""

    def prepare(self, size: tuple[int, int]) -> None:
        """Read what can be kept in memory, so that ``images`` is quick.

        Raises:
            DataError: when that shows that nothing can be used.
        """

    def images(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        """``rows`` of the ``count`` images of step ``step``, or windows of ``crop`` in them.

        The same seed, step and count give the same images, whatever was drawn before.
        """

    def sheet(self, count: int, size: tuple[int, int], device: str) -> Tensor:
        """Up to ``count`` fixed images for sample sheets; where possible training never draws them."""

    def statistics(self, count: int, size: tuple[int, int], device: str) -> Iterator[Tensor]:
        """About ``count`` fixed images, in batches, to measure the latents' mean and deviation on."""

    def plan(self, images: int, captions: int, seed: int) -> ExamplePlan:
        """The examples there are, when ``images`` with ``captions`` captions each are asked for."""

    def examples(
        self, plan: ExamplePlan, part: int, size: tuple[int, int], device: str
    ) -> Iterator[Examples]:
        """Batches of images, each with exactly ``plan.captions`` captions, of part ``part`` of ``plan``."""

    def prompts(self, count: int) -> tuple[str, ...]:
        """Up to ``count`` prompts for the flow's sample sheets."""


class SceneSource:
    """The procedural world (SPEC section 7): never the same image twice, rendered on the device."""

    name = SCENES
    skipped: tuple[Skipped, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """A few scenes and captions: another version's world or grammar makes other ones."""
        rng = np.random.default_rng(0)
        scenes = [sample_scene(rng) for _ in range(CHUNK)]
        made = repr([(scene, caption(scene, rng)) for scene in scenes])
        return f"{SCENES} {hashlib.sha256(made.encode()).hexdigest()}"

    def describe(self) -> str:
        return f"{SCENES}: the built-in procedural world"

    def prepare(self, size: tuple[int, int]) -> None:
        """Nothing to read."""

    def images(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        """Fresh scenes; windows of ``crop`` each hold an object's centre."""
        rng = step_rng(seed, step)
        scenes = [sample_scene(rng) for _ in range(count)]
        corners = [(0, 0) if crop is None else _corner(scene, size, crop, rng) for scene in scenes][rows]
        images = render(scenes[rows], size[0], size[1], device=device)
        if crop is None:
            return images
        return torch.stack([
            image[:, top : top + crop[0], left : left + crop[1]]
            for image, (top, left) in zip(images, corners, strict=True)
        ])  # fmt: skip

    def sheet(self, count: int, size: tuple[int, int], device: str) -> Tensor:
        return self.images(SHEET_SEED, 0, count, size, device)

    def statistics(self, count: int, size: tuple[int, int], device: str) -> Iterator[Tensor]:
        """Scenes that training never draws: there are always more."""
        for part in range(max(1, count // CHUNK)):
            yield self.images(STATISTICS_SEED, part, CHUNK, size, device)

    def plan(self, images: int, captions: int, seed: int) -> ExamplePlan:
        return ExamplePlan(images, captions, seed)

    def examples(
        self, plan: ExamplePlan, part: int, size: tuple[int, int], device: str
    ) -> Iterator[Examples]:
        rng = step_rng(plan.seed, CACHE_STREAM + part)
        scenes = [sample_scene(rng) for _ in range(min(PART, plan.images - part * PART))]
        texts = [tuple(caption(scene, rng) for _ in range(plan.captions)) for scene in scenes]
        for first in range(0, len(scenes), CHUNK):
            images = render(scenes[first : first + CHUNK], size[0], size[1], device=device)
            yield images, texts[first : first + CHUNK]

    def prompts(self, count: int) -> tuple[str, ...]:
        return SHEET_PROMPTS[:count]


def _corner(
    scene: Scene, size: tuple[int, int], crop: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int]:
    """Top and left of a window that holds the centre of one of the scene's objects: flat crops teach little."""
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    top, left = (
        int(np.clip(centre * side - rng.uniform(0.0, window), 0, side - window))
        for centre, side, window in zip((item.y, item.x), size, crop, strict=True)
    )
    return top, left


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
