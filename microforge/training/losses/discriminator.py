"""A PatchGAN for the last phase of the VAE (pix2pix, arXiv 1611.07004; hinge losses as VQGAN, arXiv 2012.09841).

The discriminator sees overlapping patches, so it sharpens texture and edges and leaves the layout to the other losses. It
normalises with ``PixelNorm`` (RMS over channels at each pixel): without batch statistics a piece of a batch is treated as
in the whole batch, and without running statistics a resumed run equals an uninterrupted one.

The generator's term has a fixed weight. VQGAN's adaptive weight, a ratio of two gradient norms, differs between the pieces
of a batch, so that two processes would no longer equal one process with twice the batch. The mean over patches scales with
the image size as L1 does, so one weight serves all sizes.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from microforge.vae import PixelNorm


class PatchDiscriminator(nn.Module):
    """Strided convolutions that give one logit per image patch."""

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        """Build the network.

        Args:
            width: Channels after the first layer; every further layer doubles them.
            layers: Number of layers with stride 2, n; 3 as in pix2pix.
        """
        super().__init__()
        widths = [width * 2**level for level in range(layers)]
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.downs = nn.ModuleList(
            nn.Conv2d(inner, outer, 3, stride=2, padding=1) for inner, outer in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(PixelNorm(outer) for outer in widths[1:])
        self.head = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.norm = PixelNorm(widths[-1])
        self.out = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 1, ceil(H / 2**n), ceil(W / 2**n)) in float32 of images (B, 3, H, W) in [0, 1]."""
        # no norm after the first layer: it would hide the contrast of a patch
        x = F.leaky_relu(self.stem(image * 2.0 - 1.0), 0.2)
        for down, norm in zip(self.downs, self.norms, strict=True):
            x = F.leaky_relu(norm(down(x)), 0.2)
        x = F.leaky_relu(self.norm(self.head(x)), 0.2)
        logits: Tensor = self.out(x).float()
        return logits


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: half the mean of max(0, 1 - real) and of max(0, 1 + fake), over all logits."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def generator_loss(discriminator: nn.Module, output: Tensor) -> Tensor:
    """Minus the mean logit of ``output`` (B, 3, H, W); the gradient reaches ``output`` and not the discriminator."""
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    logits: Tensor = functional_call(discriminator, frozen, (output,))
    return -logits.mean()


def discriminator_terms(discriminator: nn.Module, image: Tensor, output: Tensor) -> dict[str, Tensor]:
    """The discriminator's ``loss`` on ``image`` and detached ``output``, both (B, 3, H, W), and its mean logits of them."""
    real, fake = discriminator(image), discriminator(output.detach())
    terms = {"loss": hinge_loss(real, fake), "real": real.mean(), "fake": fake.mean()}
    return {name: value if name == "loss" else value.detach() for name, value in terms.items()}
