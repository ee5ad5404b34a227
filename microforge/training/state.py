"""The state of a run in one safetensors file, replaced atomically: kill it at any moment, resume it.

Holds the network, its EMA and AdamW's moments; the step and the settings travel in the file's
metadata. There is no random state to keep: every step draws from a generator seeded by its number.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from microforge.errors import CheckpointError

STATE = "state.safetensors"


@dataclass(frozen=True)
class RunIdentity:
    """What must agree between a run and its resumption; the image size may change (a curriculum)."""

    stage: str
    config: str
    seed: int


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The numpy generator of one step: data order depends on the step's number alone."""
    return np.random.default_rng([seed, step])


def step_generator(seed: int, step: int, device: str = "cpu") -> torch.Generator:
    """The torch generator of one step."""
    mixed = int(np.random.SeedSequence([seed, step, 1]).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(mixed & 0x7FFF_FFFF_FFFF_FFFF)


def save_state(
    folder: Path,
    step: int,
    identity: RunIdentity,
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write ``folder``/state.safetensors through a temporary file."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    meta = {"step": str(step), "identity": json.dumps(identity.__dict__)}
    temporary = folder / f".{STATE}.{os.getpid()}"
    save_file(tensors, temporary, meta)
    os.replace(temporary, folder / STATE)


def load_state(
    folder: Path, identity: RunIdentity, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Restore a run in place and return the step it had reached.

    Raises:
        CheckpointError: when the file is damaged or belongs to another run.
    """
    path = folder / STATE
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            meta = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({error}); start over with --force") from None
    found = json.loads(meta["identity"])
    for key, wanted in identity.__dict__.items():
        if found.get(key) != wanted:
            raise CheckpointError(f"{folder} holds a run with {key} {found.get(key)!r}, not {wanted!r}")
    network.load_state_dict(_under("network.", tensors))
    ema.load_state_dict(_under("ema.", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, moment = name.split(".", 1)
        state.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(meta["step"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
