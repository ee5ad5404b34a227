"""Tiles cover a picture, overlap, and fade into each other without a trace where they agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.errors import SpecError
from microforge_runtimes.images.tiling import OVERLAP, joined, tiles

OWN = st.tuples(st.integers(1, 90), st.integers(1, 90))
WINDOW = st.sampled_from([(16, 16), (20, 32), (80, 40)])


@settings(max_examples=60, deadline=None)
@given(own=OWN, window=WINDOW, factor=st.sampled_from([2, 4]))
def test_tiles_of_one_picture_join_to_it_again(
    own: tuple[int, int], window: tuple[int, int], factor: int
) -> None:
    whole = np.random.default_rng(1).integers(0, 256, (own[0] * factor, own[1] * factor, 3), dtype=np.uint8)
    parts = tiles(own, window)
    cut = [
        whole[
            part.rows.start * factor : part.rows.stop * factor,
            part.columns.start * factor : part.columns.stop * factor,
        ]
        for part in parts
    ]
    assert all(part.size[0] <= window[0] and part.size[1] <= window[1] for part in parts)
    np.testing.assert_array_equal(joined(zip(parts, cut, strict=True), own, factor), whole)


def test_neighbours_overlap_and_fade() -> None:
    first, second = tiles((16, 28), (16, 16))
    assert first.columns.stop - second.columns.start >= OVERLAP * 16
    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    row = joined([(first, black), (second, white)], (16, 28), 2)[5, :, 0].astype(int)
    assert row[0] == 0 and row[-1] == 255 and (np.diff(row) >= 0).all() and np.diff(row).max() < 128


def test_a_picture_that_fits_is_one_tile_and_a_huge_one_is_refused() -> None:
    [only] = tiles((10, 20), (16, 24))
    assert only.size == (10, 20)
    with pytest.raises(
        SpecError, match=r"4000x3000 pixels; this model enlarges 80x80 at a time, .* at most 256"
    ):
        tiles((3000, 4000), (80, 80))
