"""The renderer: shapes of the right place, size and colour on canvases of any size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from microforge.data.world.renderer import object_mask, render
from microforge.data.world.scenes import (
    COLORS,
    EXTENT,
    KINDS,
    SHAPES,
    Scene,
    SceneObject,
    sample_scene,
)


def _object(shape: str, radius: float = 0.24, x: float = 0.5, y: float = 0.5) -> SceneObject:
    return SceneObject(shape, "red", "large", x, y, radius, COLORS["red"])


def _scene(*objects: SceneObject) -> Scene:
    return Scene("white", COLORS["white"], objects, "two", None)


def test_render_returns_unit_range_images_of_the_requested_size() -> None:
    rng = np.random.default_rng(0)
    images = render([sample_scene(rng, kind) for kind in KINDS], 48, 80)
    assert images.shape == (len(KINDS), 3, 48, 80)
    assert images.dtype == torch.float32
    assert 0 <= float(images.min()) and float(images.max()) <= 1


def test_render_of_no_scenes_is_an_empty_batch() -> None:
    assert render([], 32, 32).shape == (0, 3, 32, 32)


def test_render_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(24)]
    alone = torch.cat([render([scene], 64, 64) for scene in scenes])
    torch.testing.assert_close(render(scenes, 64, 64), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_object_mask_stays_within_the_extent(shape: str) -> None:
    size = 256
    rows, columns = torch.nonzero(object_mask(_object(shape), size, size) > 0.5, as_tuple=True)
    reach = torch.hypot(rows + 0.5 - size / 2, columns + 0.5 - size / 2).max() / (0.24 * size)
    assert 0.95 < float(reach) <= EXTENT + 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_object_mask_covers_the_same_area_at_any_resolution(shape: str) -> None:
    coarse, fine = (float(object_mask(_object(shape), size, size).sum()) / size**2 for size in (64, 512))
    assert abs(coarse / fine - 1) < 0.03
    assert 1.7 < fine / 0.24**2 < 3.2


def test_object_mask_distinguishes_every_pair_of_shapes_at_thirty_pixels() -> None:
    masks = {shape: object_mask(_object(shape, 0.40), 36, 36) for shape in SHAPES}
    for first, second in itertools.combinations(SHAPES, 2):
        overlap = torch.minimum(masks[first], masks[second]).sum()
        union = torch.maximum(masks[first], masks[second]).sum()
        assert float(overlap / union) < 0.88, (first, second)


@pytest.mark.parametrize("shape", SHAPES)
def test_object_mask_is_anti_aliased_and_mirror_symmetric(shape: str) -> None:
    mask = object_mask(_object(shape, x=0.5037), 96, 96)
    assert int(((mask > 0.02) & (mask < 0.98)).sum()) > 20
    straight = object_mask(_object(shape), 96, 96)
    torch.testing.assert_close(straight, straight.flip(1), rtol=0, atol=1e-4)


def test_heart_has_a_notch_and_ring_a_hole() -> None:
    heart, ring = (object_mask(_object(shape), 128, 128) for shape in ("heart", "ring"))
    middle, lobe = heart[:, 64], heart[:, 64 + 16]
    assert int((lobe > 0.5).nonzero()[0]) + 4 < int((middle > 0.5).nonzero()[0])
    assert float(ring[64, 64]) == 0.0


def test_star_and_triangle_point_up() -> None:
    for shape in ("star", "triangle"):
        rows = (object_mask(_object(shape), 128, 128) > 0.5).sum(1)
        filled = rows[rows > 0]
        assert int(filled[0]) < 6 < int(filled[len(filled) // 2])


def test_render_keeps_shapes_round_on_a_wide_canvas() -> None:
    rows, columns = torch.nonzero(object_mask(_object("circle", x=0.25), 64, 128) > 0.5, as_tuple=True)
    assert int(rows.max() - rows.min()) == int(columns.max() - columns.min())
    assert abs(float(columns.float().mean()) + 0.5 - 32) < 0.5


def test_render_paints_objects_in_their_own_color_and_later_ones_on_top() -> None:
    under = _object("square")
    over = SceneObject("circle", "blue", "small", 0.5, 0.5, 0.1, COLORS["blue"])
    image = render([_scene(under, over)], 64, 64)[0]
    for (row, column), color in {(32, 32): "blue", (32, 22): "red", (2, 2): "white"}.items():
        torch.testing.assert_close(image[:, row, column], torch.tensor(COLORS[color]))


def test_render_clips_an_object_that_leaves_the_frame() -> None:
    mask = object_mask(_object("circle", x=0.0), 64, 64)
    assert float(mask[32, 0]) == 1.0 and float(mask[:, 20:].sum()) == 0.0
