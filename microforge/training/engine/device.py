"""From the options of a run to its settings: the device, and what depends on it."""

from __future__ import annotations

import importlib.util
import os

import torch

from microforge.errors import SpecError, missing_extra
from microforge.training.engine.distributed import launched_precision
from microforge.training.loop_options import LoopOptions, LoopSettings


def resolve_loop(options: LoopOptions) -> LoopSettings:
    """The settings of a run on this machine.

    Raises:
        SpecError: for a device that is not available.
        MissingExtraError: for a package that is not installed.
    """
    if options.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise missing_extra("tensorboard", "train")
    device = pick_device(options.device)
    return LoopSettings(
        save_every=options.save_every,
        sample_every=options.sample_every,
        seed=options.seed,
        device=device,
        bfloat16=options.bf16 or launched_precision(),
        compile=options.compile,
        accumulate=1 if options.accumulate is None else options.accumulate,
        checkpoint_blocks=options.checkpoint_blocks,
        tensorboard=options.tensorboard,
        workers=_workers(options.workers, device),
        minutes=options.minutes,
    )


def _workers(workers: int | None, device: str) -> int:
    """``workers``; by default one per core less two for the run itself on a GPU, and none on a CPU."""
    if workers is not None:
        return workers
    return max(0, (os.cpu_count() or 1) - 2) if device.startswith("cuda") else 0


def pick_device(name: str) -> str:
    """The best available device for ``auto``; any other name is checked.

    Raises:
        SpecError: when PyTorch cannot use the device here.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if name == "auto":
        return available[0]
    if name.split(":")[0] not in available:
        raise SpecError(f"device {name!r} is not available here; allowed: auto, {', '.join(available)}")
    return name
