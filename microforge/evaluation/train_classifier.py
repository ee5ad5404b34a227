"""Trains the classifier whose features KID compares, on fresh renders of the procedural world.

    python -m microforge.evaluation.train_classifier --out classifier.safetensors

Every step draws its scenes, canvas and augmentation from generators seeded by the step's number. Scenes of every
kind and both splits are shown: a measuring instrument must know held-out compositions as well as seen ones.

Letters: B images, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from microforge.data.world.renderer import render
from microforge.data.world.scenes import COLORS, KINDS, SHAPES, Scene, choice, sample_scene
from microforge.evaluation.classifier import (
    HEADS,
    MULTIPLE,
    SIDE,
    Classifier,
    exact_shares,
    load_classifier,
    to_file,
)
from microforge.io.atomic import atomic_bytes, check_output
from microforge.io.console import command_app, print_json, run, say
from microforge.streams import StepStream

Labels = dict[str, Tensor]

#: Canvases (height, width) in pixels; all of them end up as 64 x 64, so the network meets stretched shapes too.
CANVASES = ((64, 64), (96, 96), (128, 128), (160, 160), (96, 144), (144, 96))
#: Weights that bring the mean losses of yes/no questions to the size of the one-of-many losses.
LOSS_WEIGHTS = {"shape": 12.0, "color": 6.0, "count": 1.0, "background": 0.5}


@dataclass(frozen=True)
class ClassifierSettings:
    """A training run. Augmentation is mild, so that features still tell sharp from blurred."""

    steps: int = 2400
    batch: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    blur: float = 0.5  # largest standard deviation, in pixels of the 64 x 64 image
    noise: float = 0.03  # largest standard deviation
    tint: float = 0.03  # largest shift of a colour channel
    calibration: int = 64  # batches of unseen renders that the features are standardised on
    seed: int = 0


def draw_batch(settings: ClassifierSettings, step: int) -> tuple[Tensor, Labels]:
    """Renders (B, 3, H, W) of step ``step`` and their labels, shaped as ``classifier.answers`` gives them."""
    rng = np.random.default_rng([settings.seed, step])
    kinds = tuple(KINDS)
    scenes = [sample_scene(rng, choice(rng, kinds), bool(rng.random() < 0.25)) for _ in range(settings.batch)]
    height, width = CANVASES[int(rng.integers(len(CANVASES)))]
    return render(scenes, height, width), scene_labels(scenes)


def scene_labels(scenes: list[Scene]) -> Labels:
    """What is in every scene: shapes (B, 8) and colours (B, 12) as bools, count - 1 and background (B,)."""
    colors = tuple(COLORS)
    labels = {name: torch.zeros(len(scenes), HEADS[name], dtype=torch.bool) for name in MULTIPLE}
    for index, scene in enumerate(scenes):
        for item in scene.objects:
            labels["shape"][index, SHAPES.index(item.shape)] = True
            labels["color"][index, colors.index(item.color)] = True
    labels["count"] = torch.tensor([len(scene.objects) - 1 for scene in scenes])
    labels["background"] = torch.tensor([colors.index(scene.background) for scene in scenes])
    return labels


def augment(images: Tensor, settings: ClassifierSettings, step: int) -> Tensor:
    """Images (B, 3, 64, 64), half of them blurred, half of them noisy, all a little tinted."""
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
    """Images (B, C, H, W) blurred with a Gaussian of ``sigma`` pixels; edges are repeated outward."""
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma).square())
    weights = (weights / weights.sum()).reshape(1, 1, -1, 1)
    planes = F.pad(images.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(planes, weights), weights.transpose(2, 3)).reshape(images.shape)


def classifier_loss(logits: Labels, labels: Labels) -> Tensor:
    """Cross-entropies of all questions, weighted by ``LOSS_WEIGHTS``; a scalar."""
    total = torch.zeros(())
    for name, weight in LOSS_WEIGHTS.items():
        if name in MULTIPLE:
            term = F.binary_cross_entropy_with_logits(logits[name], labels[name].float())
        else:
            term = F.cross_entropy(logits[name], labels[name])
        total = total + weight * term
    return total


def train_classifier(
    settings: ClassifierSettings, report: Callable[[int, float], None] | None = None
) -> Classifier:
    """Train from random weights; the same settings give the same weights on the same machine.

    ``report(step, loss)`` is called after every step. The result is in evaluation mode.
    """
    torch.manual_seed(settings.seed)
    classifier = Classifier().train()
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(classifier.parameters(), rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, settings.steps, pct_start=0.1)
    for step in range(settings.steps):
        images, labels = draw_batch(settings, step)
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
    """``classifier`` with the mean and standard deviation of its pooled values on renders as they are."""
    batches = (
        draw_batch(settings, StepStream.CLASSIFIER_CALIBRATION + i)[0] for i in range(settings.calibration)
    )
    pooled = torch.cat([classifier.pooled(images) for images in batches])  # (N, F)
    classifier.mean.copy_(pooled.mean(0))
    # A unit that true renders never excite has no scale of its own.
    classifier.deviation.copy_(pooled.std(0).clamp(min=0.01))
    return classifier


def fresh_accuracy(classifier: Classifier, batches: int = 32, batch: int = 64) -> dict[str, float]:
    """Share of entirely right answers per question, on renders that no training run has seen."""
    settings = ClassifierSettings(batch=batch)
    parts = [
        exact_shares(classifier, *draw_batch(settings, StepStream.CLASSIFIER_CHECK + i))
        for i in range(batches)
    ]
    return {name: sum(part[name] for part in parts) / batches for name in HEADS}


app = command_app("Train the classifier whose features KID compares.")


@app.command(epilog="Example: python -m microforge.evaluation.train_classifier --out classifier.safetensors")
def command(
    out: Annotated[Path, typer.Option(help="safetensors file to write, in float16.")],
    steps: Annotated[
        int, typer.Option(min=1, help="Optimizer steps of 32 images.")
    ] = ClassifierSettings.steps,
    seed: Annotated[int, typer.Option(min=0, help="Of initial weights and data.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Train, write the weights, read them back and say how often they are right on fresh renders."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    check_output(out, force)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("classifier", total=steps)

        def report(step: int, loss: float) -> None:
            progress.update(task, completed=step, description=f"classifier, loss {loss:.3f}")

        classifier = train_classifier(ClassifierSettings(steps=steps, seed=seed), report)
    atomic_bytes(out, to_file(classifier), force)
    written = load_classifier(out)
    shares = {name: round(share, 4) for name, share in fresh_accuracy(written).items()}
    say(
        "right on fresh renders: "
        + ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
    )
    if json:
        print_json({"out": str(out.absolute()), "sha256": written.identity, "accuracy": shares})
    else:
        print(out.absolute())


if __name__ == "__main__":
    run(app)
