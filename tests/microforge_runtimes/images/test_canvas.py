"""Any size on a model's canvas and back: shapes, padding, masks, what changed."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.evaluation.edit_judge import changed_region
from microforge_runtimes.images.canvas import (
    best_canvas,
    changed,
    fitted,
    mask_on_canvas,
    on_canvas,
    restored,
    unscaled,
)

SIDES = st.integers(1, 300)


@settings(max_examples=60, deadline=None)
@given(own=st.tuples(SIDES, SIDES), canvas=st.sampled_from([(64, 64), (64, 96), (160, 32)]))
def test_fitted_returns_every_picture_at_its_own_size(own: tuple[int, int], canvas: tuple[int, int]) -> None:
    place = fitted(own, canvas)
    assert place.size[0] == canvas[0] or place.size[1] == canvas[1], "one side fills the canvas"
    pixels = np.full((*own, 3), 77, np.uint8)
    image = on_canvas(pixels, place)
    assert image.shape == (1, 3, *canvas) and image.dtype == np.float32
    np.testing.assert_allclose(image, np.float32(77 / 255), atol=1e-6)
    back = restored(np.rint(image[0] * 255).astype(np.uint8).transpose(1, 2, 0), place)
    np.testing.assert_array_equal(back, pixels)


def test_on_canvas_of_its_own_size_changes_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    place = fitted((64, 96), (64, 96))
    np.testing.assert_array_equal(np.rint(on_canvas(pixels, place)[0] * 255), pixels.transpose(2, 0, 1))
    assert restored(pixels, place) is not None and np.array_equal(restored(pixels, place), pixels)


def test_on_canvas_repeats_the_border_in_the_padding() -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[0], pixels[-1] = 200, 100
    image = on_canvas(pixels, unscaled((10, 20), (20, 20)))
    assert (np.rint(image[0, 0, :6] * 255) == 200).all() and (np.rint(image[0, 0, 14:] * 255) == 100).all()


@settings(max_examples=20, deadline=None)
@given(y=st.integers(0, 399), x=st.integers(0, 299), side=st.sampled_from([64, 160, 512]))
def test_mask_on_canvas_loses_no_pixel_and_no_padding_is_drawn(y: int, x: int, side: int) -> None:
    mask = np.zeros((400, 300), bool)
    mask[y, x] = True
    place = fitted((400, 300), (side, side))
    hole = mask_on_canvas(mask, place)
    assert hole.shape == (1, 1, side, side) and set(np.unique(hole)) == {0.0, 1.0}
    inner = hole[0, 0, place.rows, place.columns]
    assert inner.sum() == hole.sum()
    rows, columns = (
        int((at + 0.5) * scaled / own) for at, scaled, own in zip((y, x), place.size, (400, 300), strict=True)
    )
    around = inner[max(rows - 1, 0) : rows + 2, max(columns - 1, 0) : columns + 2]
    assert around.any(), "a pixel on the border of two may go to either"


def test_best_canvas_has_the_pictures_shape() -> None:
    canvases = [(160, 160), (160, 256), (256, 160)]
    assert best_canvas((3000, 4000), canvases) == (160, 256)
    assert best_canvas((4000, 2000), canvases) == (256, 160)
    assert best_canvas((40, 40), [(64, 64), (160, 160)]) == (160, 160)


def test_changed_is_the_evaluations_changed_region_and_leaves_out_what_is_thinner_than_a_core() -> None:
    rng = np.random.default_rng(3)
    source = rng.integers(0, 60, (128, 160, 3), dtype=np.uint8)
    image = source.copy()
    image[40:70, 30:60] = 200
    image[:, 120] = 200  # a line of a pixel, as where an edge was redrawn a little beside
    image[0:8, 0:8] = 200
    pair = (torch.from_numpy(one.transpose(2, 0, 1).copy()).double()[None] / 255 for one in (image, source))
    expected = changed_region(*pair)[0, 0].numpy() > 0
    found = changed(image, source)
    assert found[40:70, 30:60].all() and found[0:8, 0:8].all() and not found[:, 110:].any()
    np.testing.assert_array_equal(found, expected)
