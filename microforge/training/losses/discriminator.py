"""A PatchGAN for the last phase of the VAE (pix2pix, arXiv 1611.07004; hinge losses as VQGAN, arXiv 2012.09841).

It judges overlapping patches, so it sharpens texture and edges and leaves the layout to the other losses. Norms
are RMS over channels at each pixel (``PixelNorm``): no statistic of the batch, so a piece of a batch is judged
as in the whole, and no running state beside the weights, so a resumed run is the same run.

The generator's term has a fixed weight, unlike VQGAN's, which is the ratio of two gradient norms at the
decoder's last layer: that ratio differs between the pieces of a batch, and two processes would no longer equal
one process with the doubled batch. A mean over patches scales with the image size as the L1 does, so one
weight serves all sizes.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from microforge.vae import PixelNorm


class PatchDiscriminator(nn.Module):
    """Strided convolutions from image (B, 3, H, W) to logits per patch (B, 1, ceil(H / 2**n), ceil(W / 2**n)).

    ``width``: channels after the first layer, doubled by each further one. ``layers``: n, 3 as in pix2pix.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
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
        # no norm after the first layer: it would hide the patch's contrast
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
    """Minus the mean logit of ``output`` (B, 3, H, W); its gradient reaches the output, never the discriminator."""
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    logits: Tensor = functional_call(discriminator, frozen, (output,))
    return -logits.mean()


def adversary_terms(discriminator: nn.Module, image: Tensor, output: Tensor) -> dict[str, Tensor]:
    """The discriminator's ``loss`` on real ``image`` and detached ``output``, and how it judged them on average."""
    real, fake = discriminator(image), discriminator(output.detach())
    terms = {"loss": hinge_loss(real, fake), "real": real.mean(), "fake": fake.mean()}
    return {name: value if name == "loss" else value.detach() for name, value in terms.items()}
