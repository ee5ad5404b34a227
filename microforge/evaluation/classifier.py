"""A small convolutional classifier of the procedural world; its last layer is the feature space of KID.

    images of any size -> 64 x 64 -> five convolutions -> pooled over positions (F) -> one linear head per question
                                                                standardized (F) -> features

``python -m microforge.evaluation.train_classifier`` trains it; docs/evaluation.md states the training and the accuracy
of the shipped weights. Distances in this feature space compare only with each other, not with FID or KID on Inception
features.

Letters: B images, H W image height and width, F features.
"""

from __future__ import annotations

import hashlib
import math
import types
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from microforge.data.world.scenes import COLORS, SHAPES
from microforge.errors import CheckpointError, DataError

WEIGHTS = Path(__file__).with_name("classifier.safetensors")
SIDE = 64
FEATURES = 128
MAX_COUNT = 4
#: Question -> number of classes. ``shape`` and ``color`` are multi-label, ``count`` and ``background`` single-label.
HEADS: Mapping[str, int] = types.MappingProxyType(
    {"shape": len(SHAPES), "color": len(COLORS), "count": MAX_COUNT, "background": len(COLORS)}
)
MULTI_LABEL = ("shape", "color")
_ID_LENGTH = 12


class Classifier(nn.Module):
    """Convolutional classifier with 0.28 M parameters.

    Attributes:
        identity: first digits of the SHA-256 of the file that the weights were loaded from, or empty.
        mean: mean (F,) of the pooled activations on true renders, measured by training.
        deviation: their standard deviation (F,).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.identity = ""
        self.body = nn.Sequential(
            _block(3, 32, stride=2), _block(32, 64, stride=2), _block(64, 64), _block(64, FEATURES, stride=2),
            _block(FEATURES, FEATURES),
        )  # fmt: skip
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, classes) for name, classes in HEADS.items()})
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))

    def features(self, images: Tensor) -> Tensor:
        """Features for KID: standardized pooled activations, scaled to a length of sqrt(F).

        KID's kernel is cubic, so a few large activations would dominate it, and a few outliers would decide the distance
        even if activations are standardized. With a fixed length the kernel is ``(cosine + 1)^3``, which is bounded.

        Args:
            images: (B, 3, H, W) in [0, 1]; resized to 64 x 64 with antialiasing, whatever their aspect ratio.

        Returns:
            (B, F) float32.

        Raises:
            DataError: for a tensor of another shape.
        """
        standard = (self.pooled(images) - self.mean) / self.deviation  # (B, F)
        return F.normalize(standard, dim=1) * math.sqrt(FEATURES)

    def pooled(self, images: Tensor) -> Tensor:
        """Input of the heads for images (B, 3, H, W): non-negative activations (B, F); raises as ``features`` does."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise DataError(f"the classifier reads images (B, 3, H, W), got {tuple(images.shape)}")
        small = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)  # (B, 3, 64, 64)
        # Maximum pooling recognizes shapes and learns much faster; mean pooling is needed for counting.
        for_maximum, for_mean = self.body(small - 0.5).chunk(2, dim=1)  # (B, F / 2, 8, 8) each
        return torch.cat([for_maximum.amax((2, 3)), for_mean.mean((2, 3))], dim=1)  # (B, F)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) of every question in ``HEADS`` for images (B, 3, H, W) in [0, 1]."""
        pooled = self.pooled(images)
        return {name: head(pooled) for name, head in self.heads.items()}


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def to_file(classifier: Classifier) -> bytes:
    """Serialize the weights as a safetensors file in float16."""
    return save({
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in classifier.state_dict().items()
    })  # fmt: skip


def load_classifier(path: str | Path = WEIGHTS) -> Classifier:
    """Load a classifier, by default the shipped one; its weights are frozen and in float32.

    Raises:
        CheckpointError: when the file is missing, damaged, or has the weights of another network.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"the classifier {path} cannot be read: {error.strerror or error}") from None
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"the classifier {path} is damaged or truncated ({error}); copy it again"
        ) from None
    classifier = Classifier()
    try:
        classifier.load_state_dict({
            name: value.float() if value.is_floating_point() else value for name, value in tensors.items()
        })  # fmt: skip
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:240]
        raise CheckpointError(
            f"the classifier {path} does not match this network; train one with "
            f"python -m microforge.evaluation.train_classifier: {reason}"
        ) from None
    classifier.identity = hashlib.sha256(data).hexdigest()[:_ID_LENGTH]
    return classifier.eval().requires_grad_(False)


def predictions(logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Predicted classes: bools (B, classes) for ``shape`` and ``color``, indices (B,) otherwise."""
    return {
        name: value > 0 if name in MULTI_LABEL else value.argmax(1) for name, value in logits.items()
    }  # fmt: skip


@torch.no_grad()
def exact_accuracy(classifier: Classifier, images: Tensor, labels: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of images (B, 3, H, W) whose whole prediction equals ``labels``, for each question."""
    shares = {}
    for name, chosen in predictions(classifier(images)).items():
        right = (chosen == labels[name].to(chosen.dtype)).reshape(len(images), -1).all(1)
        shares[name] = float(right.double().mean())
    return shares
