"""The commands that are attacked: how each is called, the old output that it meets, and what is whole afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from microforge.checkpoint import read_checkpoint
from tests.reliability.outputs import ABSENT, bundle_state, checkpoint_state, equal_weights, image_state

_EXPORT, _TRAIN, _GENERATE = "microforge_export.cli", "microforge.training.cli", "microforge_runtimes.cli"


@dataclass(frozen=True)
class Inputs:
    """What the commands read: checkpoints and bundles, an old and a new one of each, and the address of the new one."""

    old_checkpoint: Path
    new_checkpoint: Path
    old_bundle: Path
    new_bundle: Path
    old_sha256: str
    new_sha256: str
    url: str


@dataclass(frozen=True)
class Command:
    """One command in a folder that it writes to.

    ``arguments`` are without --force, ``outputs`` the names of what it writes into the folder. ``state`` says whether the
    outputs are absent, old or new, and raises when they are not whole. ``resume``: it continues with --resume.
    ``kept`` are names that begin with a dot and may stay after a killed command, since the next run continues from them.
    """

    name: str
    app: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    state: Callable[[Path], str]
    old: Path | None = None  # a folder with the outputs of an earlier call
    resume: bool = False
    equal: Callable[[Path, Path], bool] = lambda first, second: True
    kept: tuple[str, ...] = ()

    def put_old(self, folder: Path) -> None:
        """Copy the old outputs into ``folder``."""
        assert self.old is not None
        shutil.copytree(self.old, folder, dirs_exist_ok=True)


def build(inputs: Inputs) -> Command:
    """``mf-export build`` of the new checkpoint."""
    return Command(
        "mf-export build", _EXPORT,
        ("build", str(inputs.new_checkpoint), "--out", "b.mfb", "--target", "onnx", "--precision", "fp32", "--tasks", "generate"),
        ("b.mfb",), lambda folder: bundle_state(folder / "b.mfb", inputs.old_sha256, inputs.new_sha256),
    )  # fmt: skip


def pack(inputs: Inputs) -> Command:
    """``mf-export pack`` of the new bundle."""
    return Command(
        "mf-export pack", _EXPORT, ("pack", str(inputs.new_bundle), "--out", "b.mfb.zip"), ("b.mfb.zip",),
        lambda folder: bundle_state(folder / "b.mfb.zip", inputs.old_sha256, inputs.new_sha256),
    )  # fmt: skip


def fetch(inputs: Inputs) -> Command:
    """``mf-export fetch`` of the new bundle from a local server."""
    return Command(
        "mf-export fetch", _EXPORT, ("fetch", inputs.url, "--out", "b.mfb"), ("b.mfb",),
        lambda folder: bundle_state(folder / "b.mfb", inputs.old_sha256, inputs.new_sha256), kept=(".b.mfb.parts",),
    )  # fmt: skip


def generate(inputs: Inputs, old: bytes, new: bytes) -> Command:
    """``mf-generate`` of one image with the new bundle."""
    return Command(
        "mf-generate", _GENERATE, (str(inputs.new_bundle), "a red circle", "--out", "a.png", "--threads", "1"), ("a.png",),
        lambda folder: image_state(folder / "a.png", old, new),
    )  # fmt: skip


def _trained(name: str, app: str, arguments: Sequence[str], old: Path, out: str, run: str) -> Command:
    """A command that trains: ``out`` is the checkpoint, ``run`` the folder with its state."""
    before = read_checkpoint(old / out)

    def state(folder: Path) -> str:
        for extra in ("best", "checkpoint"):  # of the run; both must be whole at any time, too
            checkpoint_state(folder / run / extra, before)
        return checkpoint_state(folder / out, before)

    def equal(first: Path, second: Path) -> bool:
        names = (f"{out}/model.safetensors", f"{run}/state.safetensors")
        return all(equal_weights(first / item, second / item) for item in names)

    return Command(name, app, tuple(arguments), (out, run), state, old, True, equal)


def train(old: Path, stage: str, seed: int = 2) -> Command:
    """``mf-train vae`` or ``mf-train flow``; the flow needs a folder with a finished VAE."""
    return _trained(
        f"mf-train {stage}",
        _TRAIN,
        train_arguments(stage, seed),
        old,
        f"run/{stage}/checkpoint",
        f"run/{stage}",
    )


def train_arguments(stage: str, seed: int) -> tuple[str, ...]:
    """A short run that saves at every second step."""
    return (stage, "--config", "mini", "--out", "run", "--steps", "8", "--set", "save_every=2", "--set",
            "sample_every=2", "--set", "device=cpu", "--set", f"seed={seed}")  # fmt: skip


def distill(inputs: Inputs, old: Path, seed: int = 2) -> Command:
    """``mf-export distill`` of the new checkpoint."""
    return _trained(
        "mf-export distill",
        _EXPORT,
        distill_arguments(inputs.new_checkpoint, seed),
        old,
        "student",
        "student.run",
    )


def distill_arguments(teacher: Path, seed: int) -> tuple[str, ...]:
    """A short distillation that saves at every second step."""
    return ("distill", str(teacher), "--out", "student", "--student-steps", "2", "--steps", "6", "--set", "batch=4", "--set",
            "trajectories=8", "--set", "save_every=2", "--set", "device=cpu", "--set", f"seed={seed}")  # fmt: skip


__all__ = [
    "ABSENT",
    "Command",
    "Inputs",
    "build",
    "distill",
    "distill_arguments",
    "fetch",
    "generate",
    "pack",
    "train",
    "train_arguments",
]
