import copy

import pytest
import torch
from torch import Tensor

from microforge.errors import SpecError
from microforge.pipeline import MicroForgePipeline
from microforge.vae import MicroForgeVAE, group_mean, repeat_channels


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 64), (160, 32)])
def test_vae_reconstructs_at_every_multiple_of_its_downsampling(
    pipeline: MicroForgePipeline, size: tuple[int, int]
) -> None:
    image = torch.rand(2, 3, *size)
    latent = pipeline.vae.encode(image).mean
    assert latent.shape == (2, 4, size[0] // 32, size[1] // 32)
    assert pipeline.vae.decode(latent).shape == image.shape


def test_vae_refuses_other_sizes(pipeline: MicroForgePipeline) -> None:
    with pytest.raises(SpecError, match="64x96"):
        pipeline.vae.encode(torch.rand(1, 3, 64, 100))


def test_vae_normalisation_round_trips(pipeline: MicroForgePipeline) -> None:
    latent = torch.randn(2, 4, 3, 2)
    assert torch.allclose(pipeline.vae.denormalize(pipeline.vae.normalize(latent)), latent, atol=1e-6)


def test_vae_shortcuts_are_inverse() -> None:
    x = torch.randn(1, 4, 3, 3)
    assert torch.allclose(group_mean(repeat_channels(x, 16), 4), x, atol=1e-6)


def _backward(vae: MicroForgeVAE, checkpoint_blocks: bool) -> tuple[dict[str, Tensor], int]:
    """Gradients of one step, and how many bytes of activations its forward pass kept for them."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    vae.encoder.checkpoint_blocks = vae.decoder.checkpoint_blocks = checkpoint_blocks
    vae.zero_grad()
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.rand(1, *shape, generator=generator) for shape in ((3, 64, 96), (4, 2, 3)))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output, posterior = vae(image, noise)
        loss = (output - image).abs().mean() + posterior.kl()
    loss.backward()
    return {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}, sum(
        kept.values()
    )


def test_vae_checkpointing_keeps_gradients_and_stores_less(pipeline: MicroForgePipeline) -> None:
    vae = copy.deepcopy(pipeline.vae)
    plain, much = _backward(vae, False)
    recomputed, little = _backward(vae, True)
    assert plain.keys() == recomputed.keys() and len(plain) == len(list(vae.parameters()))
    for name, gradient in plain.items():
        assert torch.allclose(gradient, recomputed[name], atol=1e-7), name
    assert little < 0.75 * much
