"""The interface of a model under test, which hides whether it is a checkpoint or a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from microforge.data.edit_examples import Triples, downsampled
from microforge.data.world.captions import Prompt
from microforge.evaluation.generation import ImageGenerator, RoundTrip
from microforge.evaluation.planner_probe import PlannerMetrics
from microforge_runtimes.images.image_file import SourceImage
from microforge_runtimes.images.source_request import source_request
from microforge_runtimes.open_model import run
from microforge_runtimes.request import Request
from microforge_runtimes.sampler import from_pixels, to_pixels

if TYPE_CHECKING:
    from torch import Tensor

    from microforge_runtimes.editor import Editor

#: (prompts, seed) -> metrics of the planner while it generates images for the prompts.
PlannerProbe = Callable[[Sequence[Prompt], int], PlannerMetrics]
#: (task, examples, seed) -> images (B, 3, H, W) in [0, 1]; image i is generated with seed + i.
AnyTaskGenerator = Callable[[str, Triples, int], "Tensor"]


@dataclass(frozen=True)
class SamplingOptions:
    """Options of sampling; None is the model's default.

    Attributes:
        size: 256 or 256x384 (height x width).
        steps: sampling steps.
        guidance: guidance scale, of checkpoints only.
        target: engine that runs a bundle; by default the first target of the bundle.
    """

    size: str | None = None
    steps: int | None = None
    guidance: float | None = None
    target: str | None = None


@dataclass(frozen=True)
class ModelUnderTest:
    """A model to evaluate.

    Attributes:
        kind: "checkpoint" or "bundle".
        identity: SHA-256 of the checkpoint, or id of the bundle.
        height: height of the images in pixels.
        width: width of the images in pixels.
        steps: sampling steps.
        guidance: guidance scale; 1 without guidance.
        generate: text-to-image generation.
        round_trip: encoder and decoder of the autoencoder; None for a bundle without the encoder.
        probe_planner: planner metrics; None for a bundle.
        tasks: the tasks that the model can perform.
        generate_task: generation for tasks with a source image; None for a model without them.
    """

    kind: str
    identity: str
    height: int
    width: int
    steps: int
    guidance: float
    generate: ImageGenerator
    round_trip: RoundTrip | None = None
    probe_planner: PlannerProbe | None = None
    tasks: tuple[str, ...] = ("generate",)
    generate_task: AnyTaskGenerator | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width


def super_resolved(editor: Editor, example: Triples, seed: int, steps: int | None) -> NDArray[np.float32]:
    """Super-resolve the downsampled target of one example as ``mf-generate`` does: (1, 3, H, W) in [0, 1]."""
    small = downsampled(example.targets, example.factors[0]).cpu().numpy()
    entry = editor.manifest.tasks["super-resolve"].source
    assert entry is not None  # the task enlarges an image
    request = source_request("super-resolve", entry, SourceImage(to_pixels(small)), factor=example.factors[0])
    _, pixels = run(editor, request, Request(example.texts[0], request.task, seed=seed, steps=steps))
    return from_pixels(pixels)
