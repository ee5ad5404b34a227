"""Reads the linear map of a sampling loop off its run on basis vectors.

Every loop without clipping is linear in the initial noise, the network's outputs and the fresh noises. Element i of a
latent answers to basis vector i alone, so one run in which the i-th of these quantities is the i-th unit vector gives
every coefficient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microforge.errors import SpecError
from microforge_export.providers.diffusers.sampling_loop import SamplingLoop

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class LoopRecording:
    """One run on basis vectors. Coefficient vectors are over all basis vectors.

    Attributes:
        times: of every evaluation.
        inputs: the network's input at every evaluation, then the final latent, as coefficients.
        others: the network's other inputs, one mapping per evaluation, each (B, ...).
        outputs: per evaluation the basis vector's index of every guidance branch's output.
        noises: noise number -> index of its basis vector; 0 is the initial noise.
    """

    times: tuple[float, ...]
    inputs: tuple[Vector, ...]
    others: tuple[Mapping[str, NDArray[np.float32]], ...]
    outputs: tuple[tuple[int, ...], ...]
    noises: Mapping[int, int]

    def unit(self, index: int) -> Vector:
        """The basis vector ``index``."""
        vector: Vector = np.zeros(len(self.inputs[0]))
        vector[index] = 1.0
        return vector


class _Basis:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.used = shape, 0

    def next(self) -> tuple[int, Tensor]:
        index, size = self.used, int(np.prod(self.shape))
        if index >= size:
            raise SpecError(
                f"a latent of {size} values is too small to measure this sampler; use fewer --steps or a larger --size"
            )
        self.used += 1
        vector = torch.zeros(size)
        vector[index] = 1.0
        return index, vector.reshape(self.shape)


def probe(loop: SamplingLoop) -> LoopRecording:
    """Run ``loop`` once on basis vectors.

    Raises:
        SpecError: when it draws fresh noise twice in one step, or feeds guidance branches different latents.
    """
    basis = _Basis(loop.latent_shape)
    times: list[float] = []
    inputs: list[Vector] = []
    others: list[Mapping[str, NDArray[np.float32]]] = []
    outputs: list[tuple[int, ...]] = []
    noises: dict[int, int] = {}

    def noise(index: int) -> Tensor:
        if index in noises:
            raise SpecError("this sampler draws noise twice in one step, which a sampler table cannot say")
        noises[index], vector = basis.next()
        return vector

    def denoise(sample: Tensor, time: float, more: Mapping[str, Tensor]) -> Tensor:
        if not all(torch.equal(row, sample[0]) for row in sample):
            raise SpecError("guidance branches get different latents, which a sampler table cannot say")
        times.append(time)
        inputs.append(_vector(sample[:1]))
        others.append({name: value.detach().float().numpy().copy() for name, value in more.items()})
        pairs = [basis.next() for _ in sample]
        outputs.append(tuple(index for index, _ in pairs))
        return torch.cat([vector for _, vector in pairs]).to(sample.dtype)

    with torch.no_grad():
        final = loop.run(denoise, noise)
    return LoopRecording(tuple(times), (*inputs, _vector(final[:1])), tuple(others), tuple(outputs), noises)


def _vector(latents: Tensor) -> Vector:
    values: Vector = latents.detach().double().reshape(-1).numpy().copy()
    return values
