"""Of an edit, cells that came out like the source's are the source's own; cells outside a mask always are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from microforge.bundle.manifest import Sampler
from microforge.errors import SpecError
from microforge.latent_blending import after_step, latent_mask, preserve_source
from microforge.pipeline import MicroForgePipeline
from microforge.spec import SamplerSpec
from microforge_runtimes import latent_blending

NEAR_FAR = (0.5, 0.9)


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_copied_keeps_a_changed_cell_with_its_neighbours_and_takes_all_others_from_the_source() -> None:
    known = _noise(1, 4, 6, 6)
    z = known + 0.3 * _noise(1, 4, 6, 6, seed=1).sign()  # everywhere at a distance of 0.3
    z[..., 1, 1] = known[..., 1, 1] + 2.0
    found = preserve_source(z, known, NEAR_FAR)
    torch.testing.assert_close(found[..., :3, :3], z[..., :3, :3])
    assert torch.equal(found[..., 3:, :], known[..., 3:, :])
    assert torch.equal(found[..., :, 3:], known[..., :, 3:])


def test_copied_mixes_between_the_two_distances() -> None:
    known = torch.zeros(1, 4, 1, 1)
    for distance, weight in ((0.5, 0.0), (0.6, 0.25), (0.7, 0.5), (0.9, 1.0)):
        z = torch.full_like(known, distance)
        torch.testing.assert_close(preserve_source(z, known, NEAR_FAR), weight * z)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.8), st.integers(1, 5), st.integers(1, 5))
def test_the_runtimes_copied_is_torchs(seed: int, near: float, height: int, width: int) -> None:
    known, change = (_noise(1, 3, height, width, seed=seed + index) for index in range(2))
    unchanged = (near, near + 0.4)
    wanted = preserve_source(known + change, known, unchanged)
    found = latent_blending.preserve_source((known + change).numpy(), known.numpy(), unchanged)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_after_step_blends_outside_the_hole_at_every_time_and_copies_at_the_end_alone() -> None:
    z, known, noise = (_noise(1, 2, 2, 4, seed=seed) for seed in range(3))
    mask = torch.zeros(1, 1, 4, 8)
    mask[..., 0, 0] = 1.0
    hole = latent_mask(mask, 2)
    assert hole[0, 0].tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]
    both = after_step(known, noise, hole, (0.0, 1e-6))
    assert both is not None
    for t in (0.5, 0.0):
        found = both(z, t)
        torch.testing.assert_close(found[..., 0, 0], z[..., 0, 0])
        torch.testing.assert_close(found[..., 1, :], ((1 - t) * known + t * noise)[..., 1, :])
    ends = after_step(known, noise, distances=(10.0, 11.0))
    assert ends is not None
    assert torch.equal(ends(z, 0.5), z) and torch.equal(ends(z, 0.0), known)
    assert after_step(known, noise) is None


def test_an_edit_that_changes_nothing_is_the_round_trip_of_its_source(pipeline: MicroForgePipeline) -> None:
    source = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(5, 9)[None]
    latent = pipeline.vae.normalize(pipeline.vae.encode(source).mean)
    spec, drawn = pipeline.spec, pipeline.edit(source, ids)
    try:
        pipeline.spec = replace(spec, sampler=replace(spec.sampler, preserve_distances=(1e6, 2e6)))
        same = pipeline.edit(source, ids)
        pipeline.spec = replace(spec, sampler=replace(spec.sampler, preserve_distances=None))
        free = pipeline.edit(source, ids)
    finally:
        pipeline.spec = spec
    assert torch.equal(same, pipeline._decode(latent))
    assert not torch.allclose(same, drawn, atol=1e-3)
    assert free.shape == drawn.shape


@pytest.mark.parametrize("unchanged", [(0.9, 0.5), (-0.1, 0.5), (0.5, 0.5)])
def test_distances_that_do_not_rise_are_refused(unchanged: tuple[float, float]) -> None:
    with pytest.raises(SpecError, match="allowed: two rising distances from 0, or null"):
        SamplerSpec(preserve_distances=unchanged)
    with pytest.raises(ValidationError, match="two rising distances"):
        Sampler(timesteps=(1.0, 0.0), guidance="folded", prediction="velocity", unchanged=unchanged)
