"""Images and captions of the procedural world, rendered on the fly."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from microforge.data.order import CHUNK, PART, ExamplePlan, Examples, step_rng
from microforge.data.skipped import Skipped
from microforge.data.world.captions import caption
from microforge.data.world.renderer import render, scene_coverage
from microforge.data.world.scenes import Scene, sample_scene
from microforge.streams import FixedSeed, StepStream

SCENES = "scenes"


#: Prompts of the sample sheets of flow training on the built-in world, at seed 0.
SHEET_PROMPTS = (
    "a red circle", "a blue square on a white background", "a green triangle on the left",
    "a yellow star on a black background", "a small pink heart", "a large orange ring", "two purple diamonds",
    "three blue circles", "a red square and a green circle", "a yellow heart left of a blue star",
    "a cyan cross above a brown triangle", "a white circle on a gray background",
)  # fmt: skip


class SceneSource:
    """Image source of the procedural world; scenes are rendered on the device and never repeat."""

    name = SCENES
    skipped: tuple[Skipped, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of a few scenes and captions: it changes with the world and with the grammar."""
        rng = np.random.default_rng(0)
        scenes = [sample_scene(rng) for _ in range(CHUNK)]
        examples = repr([(scene, caption(scene, rng)) for scene in scenes])
        return f"{SCENES} {hashlib.sha256(examples.encode()).hexdigest()}"

    def describe(self) -> str:
        return f"{SCENES}: the built-in procedural world"

    def prepare(self, size: tuple[int, int]) -> None:
        """Do nothing: there are no files."""

    def images(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        """Images of new scenes; every crop of size ``crop`` holds the centre of an object."""
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
        rng = step_rng(seed, step)
        scenes = [sample_scene(rng) for _ in range(count)]
        corners = [(0, 0) if crop is None else _corner(scene, size, crop, rng) for scene in scenes][rows]
        images = render(scenes[rows], size[0], size[1], device=device)
        if alpha:
            images = torch.cat([images, scene_coverage(scenes[rows], *size).to(device)], dim=1)
        if crop is None:
            return images
        return torch.stack([
            image[:, top : top + crop[0], left : left + crop[1]]
            for image, (top, left) in zip(images, corners, strict=True)
        ])  # fmt: skip

    def sheet(self, count: int, size: tuple[int, int], device: str) -> Tensor:
        return self.images(FixedSeed.UNSEEN_SCENES, 0, count, size, device)

    def statistics(self, count: int, size: tuple[int, int], device: str) -> Iterator[Tensor]:
        """Images of scenes that training never shows."""
        for part in range(max(1, count // CHUNK)):
            yield self.images(FixedSeed.STATISTICS, part, CHUNK, size, device)

    def plan(self, images: int, captions: int, seed: int) -> ExamplePlan:
        return ExamplePlan(images, captions, seed)

    def examples(
        self, plan: ExamplePlan, part: int, size: tuple[int, int], device: str
    ) -> Iterator[Examples]:
        rng = step_rng(plan.seed, StepStream.LATENT_CACHE + part)
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
    """Top and left of a crop that holds the centre of an object: crops of plain background teach little."""
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    top, left = (
        int(np.clip(centre * side - rng.uniform(0.0, length), 0, side - length))
        for centre, side, length in zip((item.y, item.x), size, crop, strict=True)
    )
    return top, left
