"""Resampling is torch's, and a picture made consistent shrinks to its source and comes no further from the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.bundle.reference_model import task_entries
from microforge.errors import SpecError
from microforge_runtimes.images.resampling import (
    MAGNIFICATIONS,
    consistent,
    shrunk,
    upsampled,
)
from microforge_runtimes.sampler import Floats

SIDE = st.integers(1, 40)


def _image(*size: int) -> Floats:
    return np.random.default_rng(sum(size)).random((1, 3, *size), dtype=np.float32)


@settings(max_examples=25, deadline=None)
@given(height=SIDE, width=SIDE, factor=st.sampled_from(MAGNIFICATIONS))
def test_upsampled_is_torchs_bicubic(height: int, width: int, factor: int) -> None:
    image = _image(height, width)
    expected = F.interpolate(torch.from_numpy(image), scale_factor=factor, mode="bicubic", antialias=False)
    np.testing.assert_allclose(upsampled(image, factor), expected.clamp(0, 1).numpy(), atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    height=SIDE, width=st.integers(2, 40), factor=st.sampled_from((2, 4))
)  # torch is wrong for a width of 1
def test_shrunk_is_torchs_bicubic_with_anti_aliasing(height: int, width: int, factor: int) -> None:
    image = _image(height * factor, width * factor)
    expected = F.interpolate(torch.from_numpy(image), (height, width), mode="bicubic", antialias=True)
    np.testing.assert_allclose(shrunk(image, factor), expected.clamp(0, 1).numpy(), atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(height=SIDE, width=SIDE, factor=st.sampled_from((2, 4)), noise=st.floats(0.0, 0.3))
def test_consistent_images_shrink_to_the_source_and_are_no_further_from_the_truth(
    height: int, width: int, factor: int, noise: float
) -> None:
    rng = np.random.default_rng(height * 41 + width)
    truth = (0.4 + 0.2 * rng.random((1, 3, height * factor, width * factor))).astype(np.float32)
    wrong = (truth + noise * (rng.random(truth.shape) - 0.5)).astype(np.float32)
    source = shrunk(truth, factor)
    found = consistent(wrong, source, factor)
    error = [float(np.square(image - truth, dtype=np.float64).sum()) for image in (found, wrong)]
    assert error[0] <= error[1] * (1 + 1e-6) + 1e-9
    np.testing.assert_allclose(shrunk(found, factor), source, atol=2e-3 if noise > 0.25 else 1e-4)


def test_consistent_leaves_an_image_that_agrees() -> None:
    image: Floats = (_image(12, 20) * 0.5 + 0.25).astype(np.float32)
    np.testing.assert_allclose(consistent(image, shrunk(image, 2), 2), image, atol=1e-5)


def test_upsampled_refuses_other_factors_and_super_resolution_needs_no_others() -> None:
    entry = task_entries(("super-resolve",), False, None)["super-resolve"].source
    assert entry is not None and entry.enlarge is not None
    assert {factor * entry.enlarge.oversampling for factor in entry.enlarge.factors} <= set(MAGNIFICATIONS)
    with pytest.raises(SpecError, match="is 3; allowed: 2, 4, 8"):
        upsampled(np.zeros((1, 3, 4, 4), np.float32), 3)
