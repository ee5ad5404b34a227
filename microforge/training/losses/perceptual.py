"""Perceptual distances between images: a fixed random network, and a hook for LPIPS.

The built-in one needs no trained weights: a convolutional network with random weights already provides much of what a
trained one contributes to a perceptual loss (Liu et al., "Generic Perceptual Loss for Modeling Structured Output
Dependencies", arXiv 2103.10571). Features are compared as in LPIPS (Zhang et al., arXiv 1801.03924): scaled to unit length
at each position, squared difference, mean over positions, sum over layers.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microforge.errors import CheckpointError, MissingExtraError
from microforge.noise import standard_normal

#: (output, target), both (B, 3, H, W) and about [0, 1], to a distance per image (B,).
PerceptualHook = Callable[[Tensor, Tensor], Tensor]

#: Channels of each scale; every scale halves height and width.
WIDTHS = (16, 32, 64, 128)
#: The weights are portable noise of this seed, so that they are equal on every machine and in every process.
SEED = 20_240_607
SLOPE = 0.2  # of the leaky ReLU


class RandomFeatures(nn.Module):
    """Distance of two images in the features of an untrained network: four scales of two 3x3 convolutions each.

    The weights are frozen buffers outside of the state dict. Biases are random too: without them the network would be
    homogeneous, and features of unit length could not represent contrast.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, seed: int = SEED) -> None:
        super().__init__()
        self.scales = len(widths)
        offset, inner = 0, 3
        for index, outer in enumerate(width for width in widths for _ in range(2)):
            # He et al. 2015 for this slope: the features keep their magnitude from layer to layer
            gain = math.sqrt(2.0 / (1.0 + SLOPE**2) / (9 * inner))
            count = outer * inner * 9
            weight = torch.from_numpy(standard_normal(seed, (outer, inner, 3, 3), offset)) * gain
            bias = torch.from_numpy(standard_normal(seed, (outer,), offset + count)) * 0.1
            self.register_buffer(f"weight{index}", weight, persistent=False)
            self.register_buffer(f"bias{index}", bias, persistent=False)
            offset, inner = offset + count + outer, outer

    def features(self, image: Tensor) -> list[Tensor]:
        """Unit-length features of ``image`` (B, 3, H, W): one (B, width, H / 2**i, W / 2**i) per scale."""
        x, features = image * 2.0 - 1.0, []
        for scale in range(self.scales):
            x = F.avg_pool2d(x, 2, ceil_mode=True) if scale else x
            for index in (2 * scale, 2 * scale + 1):
                weight, bias = self.get_buffer(f"weight{index}"), self.get_buffer(f"bias{index}")
                x = F.leaky_relu(F.conv2d(x, weight, bias, padding=1), SLOPE)
            features.append(x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-8))
        return features

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance (B,) of ``output`` to ``target``, (B, 3, H, W) in about [0, 1].

        Computed in float32 even under autocast: bfloat16 rounds away the small differences of two similar images. No
        gradient reaches ``target``.
        """
        with torch.autocast(output.device.type, enabled=False):
            with torch.no_grad():
                target_features = self.features(target.float())
            output_features = self.features(output.float())
            pairs = zip(output_features, target_features, strict=True)
            return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)  # (B,)


def check_lpips() -> None:
    """Check that ``load_lpips`` will succeed, before anything is written.

    Raises:
        MissingExtraError: when the package ``lpips`` is not installed.
        CheckpointError: when its VGG-16 weights are not in torch's cache; the package would download them unasked.
    """
    if importlib.util.find_spec("lpips") is None:
        raise MissingExtraError(
            "the loss weight lpips needs the package lpips, which is not installed: pip install lpips, or set lpips to 0"
        )
    url: str = importlib.import_module("torchvision.models").VGG16_Weights.IMAGENET1K_V1.url
    weights = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[1])
    if not weights.is_file():
        raise CheckpointError(f"lpips needs VGG-16 at {weights}: download {url} there, or set lpips to 0")


def load_lpips(device: str) -> PerceptualHook:
    """LPIPS on VGG-16 from the installed ``lpips`` package and weights; nothing is downloaded.

    Raises:
        MissingExtraError, CheckpointError: when the package or the weights are missing.
    """
    check_lpips()
    package: Any = importlib.import_module("lpips")
    network: nn.Module = package.LPIPS(net="vgg", verbose=False).requires_grad_(False).eval().to(device)

    def distance(output: Tensor, target: Tensor) -> Tensor:
        value: Tensor = network(output, target, normalize=True)  # (B, 1, 1, 1)
        return value.flatten()

    return distance
