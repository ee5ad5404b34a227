"""The state of a run in one safetensors file that is replaced atomically: a run can be killed at any moment and resumed.

The file holds the network, its EMA and the moments of the optimizers, and the same of the discriminator; its metadata hold
the progress and the identity of the run. No random state is stored, since every step uses generators seeded by its number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from microforge.data.order import step_rng as step_rng
from microforge.errors import CheckpointError
from microforge.io.atomic import atomic_path

STATE = "state.safetensors"
#: The metadata key of a run's progress.
PROGRESS = "standing"
#: The discriminator's name in the file. A state may lack it: a resumed run may add a discriminator.
DISCRIMINATOR = "adversary"


@dataclass(frozen=True)
class RunIdentity:
    """What must be equal for a run to be resumed. The image size is not part of it: a curriculum changes it.

    ``encoder`` identifies the latents that a flow was trained on; weights are meaningless for those of another encoder.
    """

    stage: str
    config: str
    seed: int
    encoder: str = ""
    optimizer: str = "adamw"
    data: str = "scenes"  # or "own images": not which folder, for it may move or grow


@dataclass(frozen=True)
class RunProgress:
    """How far a run is: steps done, smoothed score, its minimum so far, and its value when ``best`` was written.

    ``setting`` is what scores are comparable within: at another image size the loss is another quantity.
    """

    step: int = 0
    smoothed: float = math.nan
    lowest: float = math.inf
    best: float = math.inf
    setting: str = ""
    complete: bool = False  # the run is finished, at whatever step its minutes ended


@dataclass(frozen=True)
class StateParts:
    """Everything that training changes: modules and optimizers, by their names in the file."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]


def step_generator(seed: int, step: int, device: str = "cpu") -> torch.Generator:
    """The torch generator of one step, or of another number (``streams.TensorStream``)."""
    mixed = int(np.random.SeedSequence([seed, step, 1]).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(mixed & 0x7FFF_FFFF_FFFF_FFFF)


def save_state(folder: Path, progress: RunProgress, identity: RunIdentity, parts: StateParts) -> None:
    """Write ``folder``/state.safetensors; the old one stays until the new one is complete.

    Raises:
        OutputError: when it cannot be written, on a full disk for example.
    """
    tensors: dict[str, Tensor] = {}
    for part, module in parts.modules.items():
        tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    for part, optimizer in parts.optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{part}.{index}.{name}": value for name, value in moments.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    meta = {
        "step": str(progress.step),
        "identity": json.dumps(asdict(identity)),
        PROGRESS: json.dumps(asdict(progress)),
    }
    with atomic_path(folder / STATE, force=True) as temporary:
        save_file(tensors, temporary, meta)


def check_identity(folder: Path, identity: RunIdentity) -> int:
    """Check that the state in ``folder`` belongs to the run ``identity``; return the number of steps done.

    Raises:
        CheckpointError: when the state is damaged or belongs to another run.
    """
    meta = _metadata(folder)
    stored = json.loads(meta["identity"])
    for key, wanted in asdict(identity).items():
        if key not in stored or stored[key] == wanted:  # states of older versions have fewer keys
            continue
        if key == "encoder":
            raise CheckpointError(
                f"{folder} was trained on the latents of another VAE, which has been retrained since; --force starts over"
            )
        raise CheckpointError(f"{folder} holds a run with {key} {stored[key]!r}, not {wanted!r}")
    return int(meta["step"])


def steps_done(folder: Path) -> int:
    """Steps done by the run in ``folder``; 0 without a state.

    Raises:
        CheckpointError: when the state is damaged.
    """
    return int(_metadata(folder)["step"]) if (folder / STATE).is_file() else 0


def is_complete(folder: Path) -> bool:
    """Whether the run in ``folder`` is finished."""
    progress = _metadata(folder).get(PROGRESS, "{}") if (folder / STATE).is_file() else "{}"
    return bool(json.loads(progress).get("complete", False))


def _metadata(folder: Path) -> dict[str, str]:
    path = folder / STATE
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            meta: dict[str, str] = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({error}); start over with --force") from None
    if not {"identity", "step"} <= set(meta):
        raise CheckpointError(f"{path} is not the state of a run; start over with --force")
    return meta


def load_state(folder: Path, identity: RunIdentity, parts: StateParts) -> RunProgress:
    """Restore a run in place and return its progress.

    Raises:
        CheckpointError: when the file is damaged or belongs to another run.
    """
    step = check_identity(folder, identity)
    try:
        with safetensors.safe_open(str(folder / STATE), "pt") as file:
            meta = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{folder / STATE} is damaged or truncated ({error}); start over with --force"
        ) from None
    for part, module in parts.modules.items():
        weights = _under(part, tensors)
        if not weights and part == DISCRIMINATOR:
            continue
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:240]
            raise CheckpointError(f"{folder / STATE} does not fit the {part} of this run: {reason}") from None
    for part, optimizer in parts.optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(part, tensors).items():
            index, moment = name.split(".", 1)
            state.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return RunProgress(**json.loads(meta[PROGRESS])) if PROGRESS in meta else RunProgress(step)


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = part + "."
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
