"""Latents outside a mask are preserved; so are latents of an edit that are close to the source's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from microforge.bundle.sampling import SourceEntry
from microforge.errors import SpecError
from microforge.latent_blending import after_step, latent_mask, preserve_source
from microforge.pipeline import MicroForgePipeline
from microforge.spec import SamplerSpec
from microforge_runtimes import latent_blending

NEAR_FAR = (0.5, 0.9)


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_preserve_source_keeps_an_edited_latent_and_its_neighbours_and_copies_all_others() -> None:
    source_latent = _noise(1, 4, 6, 6)
    z = source_latent + 0.3 * _noise(1, 4, 6, 6, seed=1).sign()  # everywhere at a distance of 0.3
    z[..., 1, 1] = source_latent[..., 1, 1] + 2.0
    result = preserve_source(z, source_latent, NEAR_FAR)
    torch.testing.assert_close(result[..., :3, :3], z[..., :3, :3])
    assert torch.equal(result[..., 3:, :], source_latent[..., 3:, :])
    assert torch.equal(result[..., :, 3:], source_latent[..., :, 3:])


def test_copied_mixes_between_the_two_distances() -> None:
    source_latent = torch.zeros(1, 4, 1, 1)
    for distance, weight in ((0.5, 0.0), (0.6, 0.25), (0.7, 0.5), (0.9, 1.0)):
        z = torch.full_like(source_latent, distance)
        torch.testing.assert_close(preserve_source(z, source_latent, NEAR_FAR), weight * z)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.8), st.integers(1, 5), st.integers(1, 5))
def test_the_runtimes_copied_is_torchs(seed: int, near: float, height: int, width: int) -> None:
    source_latent, change = (_noise(1, 3, height, width, seed=seed + index) for index in range(2))
    distances = (near, near + 0.4)
    wanted = preserve_source(source_latent + change, source_latent, distances)
    result = latent_blending.preserve_source(
        (source_latent + change).numpy(), source_latent.numpy(), distances
    )
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, wanted.numpy(), atol=1e-5)


def test_after_step_blends_outside_the_mask_at_every_time_and_copies_at_the_end_alone() -> None:
    z, source_latent, noise = (_noise(1, 2, 2, 4, seed=seed) for seed in range(3))
    mask = torch.zeros(1, 1, 4, 8)
    mask[..., 0, 0] = 1.0
    editable = latent_mask(mask, 2)
    assert editable[0, 0].tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]
    both = after_step(source_latent, noise, editable, (0.0, 1e-6))
    assert both is not None
    for t in (0.5, 0.0):
        result = both(z, t)
        torch.testing.assert_close(result[..., 0, 0], z[..., 0, 0])
        torch.testing.assert_close(result[..., 1, :], ((1 - t) * source_latent + t * noise)[..., 1, :])
    ends = after_step(source_latent, noise, distances=(10.0, 11.0))
    assert ends is not None
    assert torch.equal(ends(z, 0.5), z) and torch.equal(ends(z, 0.0), source_latent)
    assert after_step(source_latent, noise) is None


def test_an_edit_that_changes_nothing_is_the_round_trip_of_its_source(pipeline: MicroForgePipeline) -> None:
    source = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(5, 9)[None]
    latent = pipeline.vae.normalize(pipeline.vae.encode(source).mean)
    spec, edited = pipeline.spec, pipeline.edit(source, ids)
    try:
        pipeline.spec = replace(spec, sampler=replace(spec.sampler, preserve_distances=(1e6, 2e6)))
        same = pipeline.edit(source, ids)
        pipeline.spec = replace(spec, sampler=replace(spec.sampler, preserve_distances=None))
        free = pipeline.edit(source, ids)
    finally:
        pipeline.spec = spec
    assert torch.equal(same, pipeline._decode(latent))
    assert not torch.allclose(same, edited, atol=1e-3)
    assert free.shape == edited.shape


@pytest.mark.parametrize("distances", [(0.9, 0.5), (-0.1, 0.5), (0.5, 0.5)])
def test_distances_that_do_not_rise_are_refused(distances: tuple[float, float]) -> None:
    with pytest.raises(SpecError, match="allowed: two rising distances from 0, or null"):
        SamplerSpec(preserve_distances=distances)
    with pytest.raises(ValidationError, match="two rising distances"):
        SourceEntry(encoder="image", preserve_distances=distances)
