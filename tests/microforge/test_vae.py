import pytest
import torch

from microforge.errors import SpecError
from microforge.pipeline import MicroForgePipeline
from microforge.vae import group_mean, repeat_channels


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 64), (160, 32)])
def test_vae_keeps_any_size_of_whole_cells(pipeline: MicroForgePipeline, size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    latent = pipeline.vae.encode(image).mean
    assert latent.shape == (2, 4, size[0] // 32, size[1] // 32)
    assert pipeline.vae.decode(latent).shape == image.shape


def test_vae_refuses_a_size_of_broken_cells(pipeline: MicroForgePipeline) -> None:
    with pytest.raises(SpecError, match="64x96"):
        pipeline.vae.encode(torch.rand(1, 3, 64, 100))


def test_vae_normalisation_round_trips(pipeline: MicroForgePipeline) -> None:
    latent = torch.randn(2, 4, 3, 2)
    assert torch.allclose(pipeline.vae.denormalize(pipeline.vae.normalize(latent)), latent, atol=1e-6)


def test_vae_shortcuts_are_inverse() -> None:
    x = torch.randn(1, 4, 3, 3)
    assert torch.allclose(group_mean(repeat_channels(x, 16), 4), x, atol=1e-6)
