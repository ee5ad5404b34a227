"""Edit, inpaint and super-resolve examples of the procedural world, whose targets are exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from microforge.data.edit_examples import Triples, inpaint_examples, super_resolve_examples, task_rng
from microforge.data.skipped import Skipped
from microforge.data.world.captions import caption
from microforge.data.world.edits import sample_edit
from microforge.data.world.masks import sample_mask
from microforge.data.world.renderer import render
from microforge.data.world.scenes import Scene, sample_scene


class SceneTriples:
    """The procedural world: true targets, never the same edit twice, rendered on the device."""

    name = "scenes"
    skipped: tuple[Skipped, ...] = ()

    def triples(
        self, task: str, seed: int, step: int, count: int, rows: Sequence[int], size: tuple[int, int], device: str
    ) -> Triples:  # fmt: skip
        rng = task_rng(task, seed, step)
        if task == "edit":
            edits = [sample_edit(rng) for _ in range(count)]
            mine = [edits[row] for row in rows]
            sources, targets = (
                render(scenes, *size, device=device)
                for scenes in ([one.source for one in mine], [one.target for one in mine])
            )
            return Triples(sources, tuple(one.instruction for one in mine), targets)
        scenes = [sample_scene(rng) for _ in range(count)]
        texts = tuple(caption(scene, rng) for scene in scenes)
        seeds = rng.integers(0, 2**63, count)  # so that a row's hole costs nothing to those who skip it
        rngs = [np.random.default_rng(seeds[row]) for row in rows]
        mine_texts = tuple(texts[row] for row in rows)
        if task == "super-resolve":
            windows = [window(scenes[row], own, size, device) for own, row in zip(rngs, rows, strict=True)]
            return super_resolve_examples(
                torch.stack([image for image, _ in windows]), mine_texts, rngs, [zoom for _, zoom in windows]
            )
        images = render([scenes[row] for row in rows], *size, device=device)
        masks = [sample_mask(own, *size, scene=scenes[row]) for own, row in zip(rngs, rows, strict=True)]
        return inpaint_examples(images, mine_texts, torch.stack(masks).to(device))


def window(scene: Scene, rng: np.random.Generator, size: tuple[int, int], device: str) -> tuple[Tensor, int]:
    """The scene whole, or, as often, a window of it drawn twice as large, about one of its objects; and the zoom."""
    height, width = size
    if rng.random() < 0.5:
        return render([scene], height, width, device=device)[0], 1
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    reach = 2.0 * item.radius
    x, y = (centre + rng.uniform(-reach, reach) for centre in (item.x, item.y))
    left, top = (
        int(min(max(round(2 * side * place - side / 2), 0), side))
        for place, side in ((x, width), (y, height))
    )
    image = render([scene], 2 * height, 2 * width, device=device)[0]
    return image[:, top : top + height, left : left + width], 2
