"""Examples of the tasks with a source image, rendered from the procedural world with exact targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microforge.data.edit_examples import Triples, inpaint_examples, super_resolve_examples, task_rng
from microforge.data.skipped import Skipped
from microforge.data.world.captions import caption
from microforge.data.world.edits import Edit, sample_edit
from microforge.data.world.masks import sample_mask
from microforge.data.world.renderer import render
from microforge.data.world.scenes import Scene, sample_scene


class SceneTriples:
    """Edit, inpaint and super-resolve examples of the procedural world, rendered on the device; none repeats."""

    name = "scenes"
    skipped: tuple[Skipped, ...] = ()

    def triples(
        self, task: str, seed: int, step: int, count: int, rows: Sequence[int], size: tuple[int, int], device: str
    ) -> Triples:  # fmt: skip
        """See ``TripleSource``."""
        rng = task_rng(task, seed, step)
        if task == "edit":
            return _edits([sample_edit(rng) for _ in range(count)], rows, size, device)
        scenes = [sample_scene(rng) for _ in range(count)]
        texts = tuple(caption(scene, rng) for scene in scenes)
        seeds = rng.integers(0, 2**63, count)  # a generator per row: rows of other processes cost nothing
        rngs = [np.random.default_rng(seeds[row]) for row in rows]
        scenes, texts = [scenes[row] for row in rows], tuple(texts[row] for row in rows)
        if task == "super-resolve":
            crops = [zoomed_crop(*pair, size, device) for pair in zip(scenes, rngs, strict=True)]
            images = torch.stack([image for image, _ in crops])
            return super_resolve_examples(images, texts, rngs, [zoom for _, zoom in crops])
        images = render(scenes, *size, device=device)
        masks = [
            sample_mask(row_rng, *size, scene=scene) for scene, row_rng in zip(scenes, rngs, strict=True)
        ]
        return inpaint_examples(images, texts, torch.stack(masks).to(device))


def _edits(edits: Sequence[Edit], rows: Sequence[int], size: tuple[int, int], device: str) -> Triples:
    chosen = [edits[row] for row in rows]
    sources = render([edit.source for edit in chosen], *size, device=device)
    targets = render([edit.target for edit in chosen], *size, device=device)
    return Triples(sources, tuple(edit.instruction for edit in chosen), targets)


def zoomed_crop(
    scene: Scene, rng: np.random.Generator, size: tuple[int, int], device: str
) -> tuple[Tensor, int]:
    """An image of ``scene`` and its zoom, each zoom equally likely.

    Zoom 1 is the whole scene, zoom 2 a crop around an object from an image of twice the size.

    Returns:
        float32 (3, H, W) in [0, 1], and a key of ``FACTORS_BY_ZOOM``.
    """
    height, width = size
    if rng.random() < 0.5:
        return render([scene], height, width, device=device)[0], 1
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    reach = 2.0 * item.radius
    x, y = (centre + rng.uniform(-reach, reach) for centre in (item.x, item.y))
    left, top = (
        int(min(max(round(2 * side * centre - side / 2), 0), side))
        for centre, side in ((x, width), (y, height))
    )
    image = render([scene], 2 * height, 2 * width, device=device)[0]
    return image[:, top : top + height, left : left + width], 2
