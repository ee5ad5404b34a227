"""Training of the classifier whose features KID compares, on new renders of the procedural world.

Scenes, canvas and augmentation of each step come from generators that are seeded by the step number. Scenes of every
kind are shown, seen and held-out: the classifier measures images, so it must recognize held-out compositions as well.

Letters: B images, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from microforge.data.world.renderer import render
from microforge.data.world.scenes import COLORS, KINDS, SHAPES, Scene, choice, sample_scene
from microforge.evaluation.classifier import (
    HEADS,
    MULTI_LABEL,
    SIDE,
    Classifier,
    exact_accuracy,
)
from microforge.streams import StepStream

Labels = dict[str, Tensor]

#: Image sizes (height, width) in pixels; all are resized to 64 x 64, so the network sees stretched shapes too.
CANVASES = ((64, 64), (96, 96), (128, 128), (160, 160), (96, 144), (144, 96))
#: Loss weights that balance the mean losses of multi-label and single-label questions.
LOSS_WEIGHTS = {"shape": 12.0, "color": 6.0, "count": 1.0, "background": 0.5}


@dataclass(frozen=True)
class ClassifierSettings:
    """Settings of a training run. Augmentation is mild, so that features still distinguish sharp and blurred images."""

    steps: int = 2400
    batch: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    blur: float = 0.5  # largest standard deviation of the blur, in pixels of the 64 x 64 image
    noise: float = 0.03  # largest standard deviation of the noise
    tint: float = 0.03  # largest shift of a colour channel
    calibration: int = 64  # batches of unseen renders on which the features are standardized
    seed: int = 0


def sample_batch(settings: ClassifierSettings, step: int) -> tuple[Tensor, Labels]:
    """Render images (B, 3, H, W) for a step, with their labels in the form of ``classifier.predictions``."""
    rng = np.random.default_rng([settings.seed, step])
    kinds = tuple(KINDS)
    scenes = [sample_scene(rng, choice(rng, kinds), bool(rng.random() < 0.25)) for _ in range(settings.batch)]
    height, width = CANVASES[int(rng.integers(len(CANVASES)))]
    return render(scenes, height, width), scene_labels(scenes)


def scene_labels(scenes: list[Scene]) -> Labels:
    """Labels of scenes: shapes (B, 8) and colours (B, 12) as bools, count - 1 and background as indices (B,)."""
    colors = tuple(COLORS)
    labels = {name: torch.zeros(len(scenes), HEADS[name], dtype=torch.bool) for name in MULTI_LABEL}
    for index, scene in enumerate(scenes):
        for item in scene.objects:
            labels["shape"][index, SHAPES.index(item.shape)] = True
            labels["color"][index, colors.index(item.color)] = True
    labels["count"] = torch.tensor([len(scene.objects) - 1 for scene in scenes])
    labels["background"] = torch.tensor([colors.index(scene.background) for scene in scenes])
    return labels


def augment(images: Tensor, settings: ClassifierSettings, step: int) -> Tensor:
    """Augment images (B, 3, 64, 64): blur half of them, add noise to half of them, and tint all of them slightly."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    count = len(images)
    blurred = gaussian_blur(images, 1e-3 + settings.blur * float(uniform(1)))
    images = torch.where(uniform(count, 1, 1, 1) < 0.5, blurred, images)
    images = images + settings.tint * (2.0 * uniform(count, 3, 1, 1) - 1.0)
    strength = settings.noise * uniform(count, 1, 1, 1) * (uniform(count, 1, 1, 1) < 0.5)
    noise = torch.randn(images.shape, generator=generator)
    return (images + strength * noise).clamp(0.0, 1.0)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur images (B, C, H, W) with a Gaussian of ``sigma`` pixels; edge pixels are replicated."""
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma).square())
    weights = (weights / weights.sum()).reshape(1, 1, -1, 1)
    planes = F.pad(images.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(planes, weights), weights.transpose(2, 3)).reshape(images.shape)


def classifier_loss(logits: Labels, labels: Labels) -> Tensor:
    """Sum of the cross-entropies of all questions, weighted by ``LOSS_WEIGHTS``."""
    total = torch.zeros(())
    for name, weight in LOSS_WEIGHTS.items():
        if name in MULTI_LABEL:
            term = F.binary_cross_entropy_with_logits(logits[name], labels[name].float())
        else:
            term = F.cross_entropy(logits[name], labels[name])
        total = total + weight * term
    return total


def train_classifier(
    settings: ClassifierSettings, report: Callable[[int, float], None] | None = None
) -> Classifier:
    """Train a classifier from random weights and return it in evaluation mode.

    The same settings give the same weights on the same machine.

    Args:
        settings: the training run.
        report: callback with step and loss after every step.
    """
    torch.manual_seed(settings.seed)
    classifier = Classifier().train()
    learning_rate = settings.learning_rate
    optimizer = torch.optim.AdamW(classifier.parameters(), learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, settings.steps, pct_start=0.1)
    for step in range(settings.steps):
        images, labels = sample_batch(settings, step)
        small = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)  # (B, 3, 64, 64)
        loss = classifier_loss(classifier(augment(small, settings, step)), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if report is not None:
            report(step + 1, float(loss.detach()))
    return calibrate(classifier.eval().requires_grad_(False), settings)


@torch.no_grad()
def calibrate(classifier: Classifier, settings: ClassifierSettings) -> Classifier:
    """Measure the mean and standard deviation of the pooled activations on renders without augmentation."""
    batches = (
        sample_batch(settings, StepStream.CLASSIFIER_CALIBRATION + i)[0] for i in range(settings.calibration)
    )
    pooled = torch.cat([classifier.pooled(images) for images in batches])  # (N, F)
    classifier.mean.copy_(pooled.mean(0))
    # A unit that is inactive on true renders has a deviation of zero.
    classifier.deviation.copy_(pooled.std(0).clamp(min=0.01))
    return classifier


def unseen_accuracy(classifier: Classifier, batches: int = 32, batch: int = 64) -> dict[str, float]:
    """Accuracy of each question on renders that training never shows; a multi-label answer counts as a whole."""
    settings = ClassifierSettings(batch=batch)
    parts = [
        exact_accuracy(classifier, *sample_batch(settings, StepStream.CLASSIFIER_CHECK + i))
        for i in range(batches)
    ]
    return {name: sum(part[name] for part in parts) / batches for name in HEADS}
