"""The PatchGAN learns, keeps images apart, and never moves while the generator learns from it."""

import pytest
import torch
from torch import Tensor

from microforge.training.losses.discriminator import (
    PatchDiscriminator,
    discriminator_terms,
    generator_loss,
    hinge_loss,
)


def test_hinge_loss_has_its_analytic_values() -> None:
    zero = torch.zeros(4, 1, 2, 2)
    assert hinge_loss(zero, zero) == 1.0, "undecided"
    assert hinge_loss(zero + 1.0, zero - 1.0) == 0.0, "right by the margin"
    assert hinge_loss(zero + 9.0, zero - 9.0) == 0.0, "more than right earns nothing"
    assert hinge_loss(zero - 1.0, zero + 1.0) == 2.0, "wrong by the margin"
    assert hinge_loss(zero + 0.5, zero - 1.0) == 0.25


@pytest.mark.parametrize(("side", "logits"), [(64, 8), (96, 12), (100, 13)])
def test_discriminator_judges_patches(side: int, logits: int) -> None:
    assert PatchDiscriminator(8)(torch.rand(2, 3, side, 32)).shape == (2, 1, logits, 4)


def _batch(step: int, blurred: bool) -> Tensor:
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(step))
    image = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return torch.nn.functional.avg_pool2d(image, 5, 1, 2, count_include_pad=False) if blurred else image


def test_discriminator_learns_to_tell_sharp_from_blurred_in_a_few_steps() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=2e-3)
    for step in range(40):
        optimizer.zero_grad()
        terms = discriminator_terms(discriminator, _batch(step, False), _batch(step + 500, True))
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        real, fake = discriminator(_batch(900, False)), discriminator(_batch(901, True))
        loss = hinge_loss(real, fake)
    assert loss < 0.25, "undecided is 1"
    assert bool((real.mean((1, 2, 3)) > 0).all()) and bool((fake.mean((1, 2, 3)) < 0).all())


def test_discriminator_judges_an_image_the_same_in_any_batch() -> None:
    torch.manual_seed(0)
    discriminator, images = PatchDiscriminator(8).train(), torch.rand(4, 3, 32, 32)
    alone = torch.cat([discriminator(image[None]) for image in images])
    assert torch.allclose(discriminator(images), alone, atol=1e-5)
    assert not list(discriminator.buffers()), "no state beside the weights"


def test_generator_loss_moves_the_image_and_never_the_discriminator() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    output = torch.rand(2, 3, 32, 32, requires_grad=True)
    loss = generator_loss(discriminator, output)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert output.grad is not None
    better = generator_loss(discriminator, output.detach() - 0.5 * output.grad / output.grad.norm())
    assert better < loss, "downhill is toward images that look real"


def test_discriminator_terms_train_the_discriminator_and_never_the_decoder() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    output = torch.rand(2, 3, 32, 32, requires_grad=True)
    terms = discriminator_terms(discriminator, torch.rand(2, 3, 32, 32), output)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    assert output.grad is None
    assert all(parameter.grad is not None for parameter in discriminator.parameters())
    assert not terms["real"].requires_grad and not terms["fake"].requires_grad


def test_discriminator_has_finite_gradients_under_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    output = torch.zeros(2, 3, 32, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        terms = discriminator_terms(discriminator, torch.rand(2, 3, 32, 32), output)
        total = terms["loss"] + generator_loss(discriminator, output)
    total.backward()  # type: ignore[no-untyped-call]
    assert total.dtype == torch.float32 and output.grad is not None and bool(output.grad.isfinite().all())
    for parameter in discriminator.parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all())
