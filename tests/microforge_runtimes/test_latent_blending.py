"""The numpy rules of the tasks with a source are torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from microforge.errors import SpecError
from microforge.sampling import guided_edit
from microforge_runtimes.latent_blending import blended, check_mask, composited, latent_mask, with_hole
from microforge_runtimes.sampler import guided_edit_velocity


def test_guided_edit_velocity_is_torchs() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(1, 4, 2, 2)).astype(np.float32) for _ in range(3)]
    full, source_only, empty = (torch.from_numpy(part) for part in parts)
    expected = guided_edit(full, source_only, empty, 3.5, 1.5).numpy()
    np.testing.assert_allclose(
        guided_edit_velocity(parts[0], parts[1], parts[2], 3.5, 1.5), expected, atol=1e-6
    )
    np.testing.assert_allclose(
        guided_edit_velocity(parts[0], parts[1], parts[2], 1.0, 1.0), parts[0], atol=1e-6
    )


def test_hole_cells_redraws_a_cell_for_one_pixel() -> None:
    mask = np.zeros((1, 1, 64, 96), np.float32)
    mask[0, 0, 31, 32] = 1
    np.testing.assert_array_equal(latent_mask(mask, 32)[0, 0], [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(latent_mask(mask, 32), F.max_pool2d(torch.from_numpy(mask), 32).numpy())


def test_blended_keeps_the_known_latent_at_the_end_and_noise_at_the_start() -> None:
    rng = np.random.default_rng(1)
    z, known, noise = (rng.normal(size=(1, 2, 1, 2)).astype(np.float32) for _ in range(3))
    hole = np.array([[[[1.0, 0.0]]]], np.float32)
    for t, outside in ((0.0, known), (1.0, noise)):
        found = blended(z, t, known, noise, hole)
        np.testing.assert_array_equal(found[..., 0], z[..., 0])
        np.testing.assert_array_equal(found[..., 1], outside[..., 1])


def test_a_hole_is_grey_and_what_is_outside_stays_bit_for_bit() -> None:
    image = np.random.default_rng(2).random((1, 3, 4, 4), dtype=np.float32)
    mask = np.zeros((1, 1, 4, 4), np.float32)
    mask[..., :2] = 1
    grey = with_hole(image, mask)
    assert (grey[..., :2] == 0.5).all() and np.array_equal(grey[..., 2:], image[..., 2:])
    assert grey.dtype == np.float32
    np.testing.assert_array_equal(composited(grey, image, mask), grey)


def test_check_mask_refuses_another_size_and_an_empty_hole() -> None:
    with pytest.raises(SpecError, match=r"mask is \(1, 1, 2, 2\); it must be \(1, 1, 4, 4\)"):
        check_mask(np.ones((1, 1, 2, 2), np.float32), 4, 4)
    with pytest.raises(SpecError, match="mask is all zero"):
        check_mask(np.zeros((1, 1, 4, 4), np.float32), 4, 4)
