"""Golden files of a bundle: reference inputs and outputs as safetensors. No torch.

A component's file holds ``case0.input.NAME``, ``case0.output.NAME``, ``case1. ...``. A trajectory's file
holds ``ids`` and ``mask`` (1, L), ``empty_ids`` and ``empty_mask`` where there is guidance, ``noise``
(1, C, h, w), ``z``, ``velocity`` (S, C, h, w) and ``plan`` (S, K, D) after each of S steps (the guided
velocity; the plan of the prompt's branch), ``latent`` (1, C, h, w) as the decoder takes it, and ``image``
(1, 3, H, W) in [0, 1]. That of a task with a source also holds ``source`` (1, 3, H, W; smaller for super-resolve),
``source_latent`` (1, C, h, w), what the denoiser is given, and for inpaint ``hole`` (1, 1, H, W), 1 where it draws.
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

from microforge.errors import BundleError

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
            raise BundleError(f"{path} holds a tensor {key!r}; expected names like case0.input.z")
        inputs, outputs = found.setdefault(int(number), ({}, {}))
        (inputs if parts[1] == "input" else outputs)[parts[2]] = value
    if not found:
        raise BundleError(f"{path} holds no cases")
    return tuple(Case(*found[index]) for index in sorted(found))


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
