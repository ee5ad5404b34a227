"""Puts known noise in place of the noise that the diffusers library draws."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

#: Shape -> the noise that the library gets at this moment.
DrawNoise = Callable[[tuple[int, ...]], Tensor]


@contextmanager
def replaced_noise(draw: DrawNoise) -> Iterator[None]:
    """Within the block every call of the library's ``randn_tensor`` returns ``draw(shape)`` in the wanted type."""

    def randn_tensor(
        shape: Any, generator: Any = None, device: Any = None, dtype: torch.dtype | None = None, layout: Any = None
    ) -> Tensor:  # fmt: skip
        return draw(tuple(int(side) for side in shape)).to(
            device=device or "cpu", dtype=dtype or torch.float32
        )

    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.split(".")[0] == "diffusers" and "randn_tensor" in vars(module)
    ]
    originals = [vars(module)["randn_tensor"] for module in modules]
    for module in modules:
        module.__dict__["randn_tensor"] = randn_tensor
    try:
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.__dict__["randn_tensor"] = original
