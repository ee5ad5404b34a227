"""The state of a run in one safetensors file, replaced atomically: kill it at any moment, resume it.

Holds the network, its EMA and the optimizers' moments, and the adversary with its own; where the run stands and
what it is travel in the file's metadata. There is no random state to keep: every step draws from a generator
seeded by its number.
"""

from __future__ import annotations

import json
import math
import os
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

STATE = "state.safetensors"
#: Parts that a state may lack: a run may be given an adversary when it is resumed.
OPTIONAL = ("adversary", "adversary_optimizer")


@dataclass(frozen=True)
class RunIdentity:
    """What must agree between a run and its resumption; the image size may change (a curriculum).

    ``encoder`` identifies the latents that a flow learns: another encoder makes its weights meaningless.
    """

    stage: str
    config: str
    seed: int
    encoder: str = ""
    optimizer: str = "adamw"
    data: str = "scenes"  # or the user's own; not which: a folder may move or grow


@dataclass(frozen=True)
class Standing:
    """Where a run is: steps done, the smoothed score, its lowest so far, and the one that ``best`` was written at.

    ``setting`` names what scores are compared within: at another image size the loss is another quantity.
    """

    step: int = 0
    smoothed: float = math.nan
    lowest: float = math.inf
    best: float = math.inf
    setting: str = ""
    complete: bool = False  # the run has come to its end, wherever its minutes put it


@dataclass(frozen=True)
class Parts:
    """Everything of a run that changes: modules and optimizers by the names they have in the file."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]


def step_generator(seed: int, step: int, device: str = "cpu") -> torch.Generator:
    """The torch generator of one step."""
    mixed = int(np.random.SeedSequence([seed, step, 1]).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(mixed & 0x7FFF_FFFF_FFFF_FFFF)


def save_state(folder: Path, standing: Standing, identity: RunIdentity, parts: Parts) -> None:
    """Write ``folder``/state.safetensors through a temporary file."""
    tensors: dict[str, Tensor] = {}
    for part, module in parts.modules.items():
        tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    for part, optimizer in parts.optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{part}.{index}.{name}": value for name, value in moments.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    meta = {
        "step": str(standing.step), "identity": json.dumps(asdict(identity)),
        "standing": json.dumps(asdict(standing)),
    }  # fmt: skip
    temporary = folder / f".{STATE}.{os.getpid()}"
    save_file(tensors, temporary, meta)
    os.replace(temporary, folder / STATE)


def check_identity(folder: Path, identity: RunIdentity) -> int:
    """The steps that the run in ``folder`` has done.

    Raises:
        CheckpointError: when its state is damaged or belongs to another run.
    """
    meta = _metadata(folder)
    found = json.loads(meta["identity"])
    for key, wanted in asdict(identity).items():
        if key not in found or found[key] == wanted:  # states of older versions say less
            continue
        if key == "encoder":
            raise CheckpointError(
                f"{folder} was trained on the latents of another VAE, which was trained again since; --force starts over"
            )
        raise CheckpointError(f"{folder} holds a run with {key} {found[key]!r}, not {wanted!r}")
    return int(meta["step"])


def steps_done(folder: Path) -> int:
    """Steps of the run in ``folder``; 0 without a state.

    Raises:
        CheckpointError: when the state is damaged.
    """
    return int(_metadata(folder)["step"]) if (folder / STATE).is_file() else 0


def is_complete(folder: Path) -> bool:
    """Whether the run in ``folder`` has come to its end."""
    standing = _metadata(folder).get("standing", "{}") if (folder / STATE).is_file() else "{}"
    return bool(json.loads(standing).get("complete", False))


def _metadata(folder: Path) -> dict[str, str]:
    path = folder / STATE
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            found: dict[str, str] = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({error}); start over with --force") from None
    if not {"identity", "step"} <= set(found):
        raise CheckpointError(f"{path} is not the state of a run; start over with --force")
    return found


def load_state(folder: Path, identity: RunIdentity, parts: Parts) -> Standing:
    """Restore a run in place and return where it stands.

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
        found = _under(part, tensors)
        if not found and part in OPTIONAL:
            continue
        try:
            module.load_state_dict(found)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:240]
            raise CheckpointError(f"{folder / STATE} does not fit the {part} of this run: {reason}") from None
    for part, optimizer in parts.optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(part, tensors).items():
            index, moment = name.split(".", 1)
            state.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Standing(**json.loads(meta["standing"])) if "standing" in meta else Standing(step)


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = part + "."
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
