"""How any run is executed, saved and shown: the options that ``mf-train`` and ``mf-export distill`` share.

``LoopOptions`` and ``DataOptions`` are what a user asked for; ``LoopSettings`` is the same with every choice made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from microforge.data.open import makes_edits
from microforge.data.world.image_source import SCENES
from microforge.errors import SpecError


@dataclass(frozen=True)
class DataOptions:
    """Where images, captions and edits come from, and how the user's own images are augmented."""

    data: str = SCENES  # scenes, stickers:FOLDER, a folder of captioned images, or .tar shards
    edits: str | None = None  # folder of edit triples; by default those of the data's own world
    flip: bool = False  # random horizontal flip; do not use with captions that say left or right
    random_crop: bool = False  # vae: move the crop over the images instead of keeping their centre

    @property
    def built_in(self) -> bool:
        """Whether images come from the built-in world."""
        return self.data == SCENES

    @property
    def has_edits(self) -> bool:
        """Whether there are edits: a folder of triples, or those of the data's own world."""
        return self.edits is not None or makes_edits(self.data)

    @property
    def label(self) -> str:
        """What a run's state records about its data: not which folder, for a folder may move or grow."""
        return SCENES if self.built_in else "own images"


@dataclass(frozen=True)
class LoopOptions:
    """How a run is executed, saved and shown, as asked for; None leaves a choice to the program."""

    device: str = "auto"  # cpu, cuda or mps; auto chooses the best one available
    bf16: bool = False  # bfloat16 autocast
    compile: bool = False  # torch.compile the denoiser
    accumulate: int | None = None  # gradient accumulation steps
    checkpoint_blocks: bool = False  # recompute blocks in the backward pass: less memory, slower
    threads: int | None = None  # CPU threads; all by default
    workers: int | None = None  # prefetching processes; by default one per core on a GPU, none on a CPU
    minutes: float | None = None  # train for this long instead of for a number of steps
    seed: int = 0  # of initial weights, data and noise
    save_every: int = 500  # steps between saved states
    sample_every: int = 2_000  # steps between sample sheets
    tensorboard: bool = False  # write TensorBoard files too
    resume: bool = False  # continue the run in the output folder
    force: bool = False  # discard the run in the output folder and start over

    def __post_init__(self) -> None:
        least = {"accumulate": 1, "threads": 1, "workers": 0, "seed": 0, "save_every": 1, "sample_every": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise SpecError(f"{name} is {value}; allowed: {minimum} or more")
        if self.minutes is not None and not 0.0 < self.minutes < math.inf:
            raise SpecError(f"minutes is {self.minutes}; allowed: above 0")


@dataclass(frozen=True)
class LoopSettings:
    """How a run is executed, saved and shown, on the device that was chosen."""

    log_every: int = 50
    save_every: int = 500
    sample_every: int = 2_000
    seed: int = 0
    device: str = "cpu"
    bfloat16: bool = False
    compile: bool = False
    accumulate: int = 1  # micro-batches per process and step
    checkpoint_blocks: bool = False
    tensorboard: bool = False
    workers: int = 0
    minutes: float | None = None  # the number of steps follows from the time; None keeps the stage's steps

    @property
    def cuda(self) -> bool:
        """Whether the run is on a CUDA device."""
        return self.device.startswith("cuda")

    @property
    def device_type(self) -> str:
        """The device without its index, as ``torch.autocast`` wants it."""
        return self.device.split(":")[0]
