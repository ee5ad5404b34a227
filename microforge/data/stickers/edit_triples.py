"""Edit, inpaint and super-resolve examples of the sticker world, whose targets are exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microforge.data.edit_examples import Triples, inpaint_examples, super_resolve_examples, task_rng
from microforge.data.skipped import Skipped
from microforge.data.stickers.captions import sticker_caption
from microforge.data.stickers.edits import sample_sticker_edit
from microforge.data.stickers.image_source import StickerSource
from microforge.data.stickers.scene_painting import paint_scenes, sticker_mask
from microforge.data.stickers.scenes import sample_sticker_scene
from microforge.data.world.masks import KINDS, MARGIN, grown, sample_mask
from microforge.data.world.scenes import Scene, choice


class StickerTriples:
    """A ``TripleSource`` over the sticker world of a ``StickerSource``."""

    skipped: tuple[Skipped, ...] = ()

    def __init__(self, source: StickerSource) -> None:
        self.source, self.name = source, source.name

    def triples(
        self, task: str, seed: int, step: int, count: int, rows: Sequence[int], size: tuple[int, int], device: str
    ) -> Triples:  # fmt: skip
        self.source.prepare(size)
        world, store = self.source.world, self.source.store
        seeds = task_rng(task, seed, step).integers(
            0, 2**63, count
        )  # a generator for each row: rows cost by themselves
        rngs = [np.random.default_rng(seeds[row]) for row in rows]
        if task == "edit":
            edits = [sample_sticker_edit(world, rng) for rng in rngs]
            sources, targets = (
                paint_scenes(scenes, store, size, device)
                for scenes in ([edit.source for edit in edits], [edit.target for edit in edits])
            )
            return Triples(sources, tuple(edit.instruction for edit in edits), targets)
        scenes = [sample_sticker_scene(world, rng) for rng in rngs]
        texts = tuple(sticker_caption(world, scene, rng) for scene, rng in zip(scenes, rngs, strict=True))
        if task == "super-resolve":
            parts = [self._part(scene, rng, size) for scene, rng in zip(scenes, rngs, strict=True)]
            images = torch.stack([image for image, _ in parts]).to(device)
            return super_resolve_examples(images, texts, rngs, [zoom for _, zoom in parts])
        masks = [self._mask(scene, rng, size) for scene, rng in zip(scenes, rngs, strict=True)]
        return inpaint_examples(
            paint_scenes(scenes, store, size, device), texts, torch.stack(masks).to(device)
        )

    def _mask(self, scene: Scene, rng: np.random.Generator, size: tuple[int, int]) -> Tensor:
        """A mask (1, H, W) of any kind; object-shaped ones have the outline of a sticker."""
        kind = choice(rng, tuple(KINDS))
        if kind != "object":
            return sample_mask(rng, *size, kind=kind)
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        covered = (sticker_mask(item, self.source.store, size) > 0).float()
        mask = grown(covered, max(1, round(min(size) * rng.uniform(*MARGIN))))
        return sample_mask(rng, *size, kind="box") if bool(mask.all()) else mask[None]

    def _part(self, scene: Scene, rng: np.random.Generator, size: tuple[int, int]) -> tuple[Tensor, int]:
        """The scene whole, or a window of it at twice the size where no sticker would be larger than it is stored; the zoom."""
        store = self.source.store
        largest = max(4.0 * item.radius * min(size) for item in scene.objects)
        if largest > store.pixels.shape[1] or rng.random() < 0.4:
            return paint_scenes([scene], store, size)[0], 1
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        height, width = size
        left, top = (
            int(
                min(
                    max(round(2 * side * (place + rng.uniform(-item.radius, item.radius)) - side / 2), 0),
                    side,
                )
            )
            for place, side in ((item.x, width), (item.y, height))
        )
        image = paint_scenes([scene], store, (2 * height, 2 * width))[0]
        return image[:, top : top + height, left : left + width], 2
