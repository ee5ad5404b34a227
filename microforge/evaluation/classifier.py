"""A small convolutional classifier of the procedural world; its last layer is the feature space of KID.

    images of any size -> 64 x 64 -> five convolutions -> pooled over positions (F) -> one linear head per question
                                                                standardised (F) -> features

It is trained by ``python -m microforge.evaluation.train_classifier``; docs/evaluation.md says how the weights
that ship were made and how often they are right. Its figures compare with each other, never with FID or with a
KID on Inception features.

Letters: B images, H W height and width, F features.
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
#: Question -> number of answers. ``shape`` and ``color`` may have several (which of them are in the image),
#: ``count`` and ``background`` have one.
HEADS: Mapping[str, int] = types.MappingProxyType(
    {"shape": len(SHAPES), "color": len(COLORS), "count": MAX_COUNT, "background": len(COLORS)}
)
MULTIPLE = ("shape", "color")
_ID_LENGTH = 12


class Classifier(nn.Module):
    """0.28M parameters; ``identity`` is the start of the SHA-256 of the file it was loaded from, or empty.

    ``mean`` and ``deviation`` are those of the pooled values on true renders; training measures them.
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
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, answers) for name, answers in HEADS.items()})
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))

    def features(self, images: Tensor) -> Tensor:
        """The pooled values, each with mean 0 and variance 1 on true renders, then as a vector of length sqrt(F).

        KID's kernel is cubic. Raw values have a mean square of 15 here, and the largest few would be all it
        sees; standardised ones that noise drives far out would let a few images decide. With a fixed length
        the kernel of the paper is ``(cosine + 1)^3`` and bounded.

        Args:
            images: (B, 3, H, W) in [0, 1]; resized to 64 x 64 with antialiasing, without keeping proportions.
        Returns:
            (B, F) float32.
        Raises:
            DataError: for another shape.
        """
        standard = (self.pooled(images) - self.mean) / self.deviation  # (B, F)
        return F.normalize(standard, dim=1) * math.sqrt(FEATURES)

    def pooled(self, images: Tensor) -> Tensor:
        """What the heads read of images (B, 3, H, W): (B, F), not negative; raises as ``features`` does."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise DataError(f"the classifier reads images (B, 3, H, W), got {tuple(images.shape)}")
        small = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)  # (B, 3, 64, 64)
        # A maximum notices a shape wherever it is and learns it much sooner; a mean can count.
        noticed, counted = self.body(small - 0.5).chunk(2, dim=1)  # (B, F / 2, 8, 8) each
        return torch.cat([noticed.amax((2, 3)), counted.mean((2, 3))], dim=1)  # (B, F)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (B, answers) of every question in ``HEADS``, of images (B, 3, H, W) in [0, 1]."""
        pooled = self.pooled(images)
        return {name: head(pooled) for name, head in self.heads.items()}


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def to_file(classifier: Classifier) -> bytes:
    """The weights as a safetensors file in float16."""
    return save({
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in classifier.state_dict().items()
    })  # fmt: skip


def load_classifier(path: str | Path = WEIGHTS) -> Classifier:
    """The classifier that ships with the package, or one in a file of ``train_classifier``; frozen, in float32.

    Raises:
        CheckpointError: when the file is missing, damaged, or holds the weights of another network.
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
            f"the classifier {path} is of another network; make one with "
            f"python -m microforge.evaluation.train_classifier: {reason}"
        ) from None
    classifier.identity = hashlib.sha256(data).hexdigest()[:_ID_LENGTH]
    return classifier.eval().requires_grad_(False)


def answers(logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's choice: (B, answers) bools for ``shape`` and ``color``, (B,) indices otherwise."""
    return {
        name: value > 0 if name in MULTIPLE else value.argmax(1) for name, value in logits.items()
    }  # fmt: skip


@torch.no_grad()
def exact_shares(classifier: Classifier, images: Tensor, labels: Mapping[str, Tensor]) -> dict[str, float]:
    """Per question, the share of images (B, 3, H, W) whose whole answer equals ``labels``."""
    shares = {}
    for name, chosen in answers(classifier(images)).items():
        right = (chosen == labels[name].to(chosen.dtype)).reshape(len(images), -1).all(1)
        shares[name] = float(right.double().mean())
    return shares
