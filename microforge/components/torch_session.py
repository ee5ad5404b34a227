"""A torch module behind the runtime's session interface: arrays by name in, arrays by name out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Component, Size, TensorSpec

Array = NDArray[Any]


@dataclass(frozen=True)
class Network:
    """A module with static, batch-1 tensors: ``key`` names it in a bundle, ``size`` is None where it serves every size.

    ``module`` takes ``inputs`` in order and returns ``outputs`` in order. ``weights_of`` is the role of another network
    that has the same weights.
    """

    key: str
    role: str
    size: Size | None
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights_of: str | None = None

    @property
    def family(self) -> str:
        """The role that stands for all networks with these weights."""
        return self.weights_of or self.role

    def entry(self) -> Component:
        """This network in a manifest."""
        return Component(role=self.role, size=self.size, inputs=self.inputs, outputs=self.outputs)

    @torch.no_grad()
    def evaluate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the module on the device of its parameters."""
        device = next((value.device for value in self.module.parameters()), torch.device("cpu"))
        tensors = [
            torch.from_numpy(np.ascontiguousarray(inputs[spec.name])).to(device) for spec in self.inputs
        ]
        return {name: value.cpu().numpy() for name, value in self.named(self.module(*tensors)).items()}

    def named(self, outputs: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
        """What the module returned, by the outputs' names."""
        values = (outputs,) if isinstance(outputs, Tensor) else outputs
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}


@dataclass(frozen=True)
class TorchSession:
    """One network; see ``microforge_runtimes.engines.session.Session``."""

    network: Network

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate once: inputs by name to outputs by name."""
        return self.network.evaluate(inputs)

    def close(self) -> None:
        """Nothing to free: the module belongs to the caller."""


@dataclass(frozen=True)
class TorchOpener:
    """Opens sessions on ``networks``, as the runtime's ``open_session`` does on a bundle's files."""

    networks: Sequence[Network]

    def __call__(self, bundle: Bundle, target: str, key: str, threads: int | None = None) -> TorchSession:
        """The session of component ``key``; ``target`` and ``threads`` have no meaning here."""
        return TorchSession(next(item for item in self.networks if item.key == key))
