"""Inpainting masks: always pixels to fill and pixels to preserve, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.data.edit_examples import masked_with_grey
from microforge.data.world.masks import KINDS, grown, sample_mask
from microforge.data.world.renderer import object_mask
from microforge.data.world.scenes import sample_scene
from microforge.errors import DataError


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(tuple(KINDS)), st.integers(16, 90), st.integers(16, 90))
def test_sample_mask_has_pixels_to_fill_and_pixels_to_preserve(
    seed: int, kind: str, height: int, width: int
) -> None:
    scene = sample_scene(np.random.default_rng(seed))
    mask = sample_mask(np.random.default_rng(seed), height, width, scene, kind)
    assert mask.shape == (1, height, width) and mask.dtype == torch.float32
    assert set(mask.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(mask, sample_mask(np.random.default_rng(seed), height, width, scene, kind))


def test_sample_mask_of_an_object_hides_all_of_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scene = sample_scene(rng, "two")
        mask = sample_mask(rng, 64, 96, scene, "object")[0]
        hidden = [bool((mask[object_mask(item, 64, 96) > 0] == 1).all()) for item in scene.objects]
        assert any(hidden)


def test_sample_mask_yields_every_kind_that_is_possible() -> None:
    rng = np.random.default_rng(1)
    scene = sample_scene(rng, "single")
    shares = {float(sample_mask(rng, 64, 64, scene).mean()) for _ in range(30)}
    assert len(shares) > 20, "masks differ"
    assert all(bool(sample_mask(rng, 64, 64).any()) for _ in range(10)), "without a scene: boxes and strokes"


def test_sample_mask_refuses_kinds_that_are_not_possible() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="unknown kind of mask 'blob'; allowed: box, stroke, object"):
        sample_mask(rng, 64, 64, kind="blob")
    with pytest.raises(DataError, match="needs a scene with an object"):
        sample_mask(rng, 64, 64, kind="object")


def test_grown_reaches_the_given_number_of_pixels() -> None:
    mask = torch.zeros(9, 9)
    mask[4, 4] = 1.0
    assert grown(mask, 2).sum() == 25 and grown(mask, 2)[2, 2] == 1
    assert torch.equal(grown(mask, 0), mask)


def test_masked_with_grey_is_grey_in_the_mask_and_the_image_elsewhere() -> None:
    image, mask = torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    holed = masked_with_grey(image, mask)
    assert bool((holed[..., :4] == 0.5).all()) and torch.equal(holed[..., 4:], image[..., 4:])
