"""The contact sheet shows every image once, in order, whatever sizes they have."""

from __future__ import annotations

import numpy as np
import pytest

from microforge_runtimes.images.contact_sheet import MAX_SIDE, THUMBNAIL, contact_sheet, thumbnail

COLORS = [(255, 0, 0), (0, 160, 0), (0, 0, 255), (200, 0, 200), (0, 200, 200)]


@pytest.mark.parametrize("columns", [None, 1, 5])
def test_every_image_is_there_in_order(columns: int | None) -> None:
    images = [np.full((40, 60, 3), color, np.uint8) for color in COLORS]
    sheet = contact_sheet(images, [str(index) for index in range(5)], columns)
    places = [np.argwhere((sheet == color).all(2)) for color in COLORS]
    assert all(len(place) == 40 * 60 for place in places)
    corners = [tuple(place[0]) for place in places]
    assert corners == sorted(corners) and len({row for row, _ in corners}) == {None: 2, 1: 5, 5: 1}[columns]


def test_sizes_may_differ_and_transparent_pixels_are_white() -> None:
    tall, clear = np.full((600, 300, 3), 9, np.uint8), np.zeros((30, 30, 4), np.uint8)
    sheet = contact_sheet([thumbnail(tall), clear], ["a" * 500, "b"])
    assert (sheet == 9).all(2).sum() == THUMBNAIL * THUMBNAIL // 2
    assert sheet.shape[1] < 2 * THUMBNAIL + 40, "labels are cut to their image"


def test_a_thousand_images_make_a_sheet_of_bounded_size() -> None:
    images = [np.full((256, 256, 3), index % 256, np.uint8) for index in range(1000)]
    sheet = contact_sheet(images, ["x"] * 1000)
    assert max(sheet.shape) <= MAX_SIDE
