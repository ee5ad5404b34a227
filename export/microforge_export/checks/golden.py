"""Golden files of a bundle: reference inputs and outputs as safetensors. No torch.

A component's file holds ``case0.input.NAME``, ``case0.output.NAME``, ``case1. ...``. A trajectory's file holds, for S
steps:

- ``tokens.T.ids`` and ``tokens.T.mask`` (1, L) per tokenizer T, ``other_tokens.T. ...`` of a second prompt;
- ``noise`` (1, C, h, w); ``u`` and ``m`` (S, C, h, w), the latent after each step and what the branches added up to;
- ``state.INPUT`` (S, ...), what the first branch carries on after each step;
- ``latent`` (1, C, h, w) as the decoder takes it, and ``image`` (1, 3, H, W) in [0, 1], after the composite;
- with a source image ``source`` (1, 3, H, W; smaller where the task enlarges), ``known`` (1, C, h, w), its normalized
  latent where it is needed, and ``mask`` (1, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from microforge.bundle.manifest import Trajectory
from microforge.errors import BundleError
from microforge_runtimes import Request

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One evaluation of a component: its inputs by name, and the reference outputs by name."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def write_cases(path: Path, cases: Sequence[Case]) -> None:
    write_tensors(
        path,
        {
            f"case{index}.{kind}.{name}": value
            for index, case in enumerate(cases)
            for kind, values in (("input", case.inputs), ("output", case.outputs))
            for name, value in values.items()
        },
    )


def read_cases(path: Path) -> tuple[Case, ...]:
    """The cases in ``path``, in order.

    Raises:
        BundleError: when it is no safetensors file or its names are not those above.
    """
    found: dict[int, tuple[dict[str, Array], dict[str, Array]]] = {}
    for key, value in read_tensors(path).items():
        parts = key.split(".", 2)
        number = parts[0].removeprefix("case")
        if len(parts) != 3 or parts[1] not in ("input", "output") or not number.isdigit():
            raise BundleError(f"{path} holds a tensor {key!r}; expected names like case0.input.NAME")
        inputs, outputs = found.setdefault(int(number), ({}, {}))
        (inputs if parts[1] == "input" else outputs)[parts[2]] = value
    if not found:
        raise BundleError(f"{path} holds no cases")
    return tuple(Case(*found[index]) for index in sorted(found))


def read_trajectory(path: Path, renamed: Mapping[str, str]) -> dict[str, Array]:
    """The tensors of a trajectory by their standard names; ``renamed`` is the manifest's.

    Raises:
        BundleError: when the file is no safetensors file.
    """
    tensors = read_tensors(path)
    taken = set(renamed.values())
    named = {name: tensors[own] for name, own in renamed.items() if own in tensors}
    return {**{name: value for name, value in tensors.items() if name not in taken}, **named}


def trajectory_request(trajectory: Trajectory, tensors: Mapping[str, Array]) -> Request:
    """What a runtime is asked for to repeat a trajectory."""
    return Request(
        trajectory.prompt or None, trajectory.task, tensors.get("source"), tensors.get("mask"), trajectory.seed,
        strength=trajectory.strength,
    )  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write named arrays, whatever their memory layout."""
    # safetensors writes an array's memory as it lies, so a transposed view would come back scrambled; and its
    # save_file makes files that only their owner can read.
    path.write_bytes(save({name: np.ascontiguousarray(value) for name, value in tensors.items()}))


def read_tensors(path: Path) -> dict[str, Array]:
    """All tensors of a safetensors file.

    Raises:
        BundleError: when it is none.
    """
    try:
        return dict(load_file(path))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"{path} is not a whole safetensors file ({error})") from None
