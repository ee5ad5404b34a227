"""From the coefficients of a recorded loop to the shortest recurrence: the sampler table of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.sampling import MAX_HISTORY, SamplerRow, SamplerTable
from microforge.errors import SpecError
from microforge_export.providers.diffusers.probe import LoopRecording, Vector

#: Largest error of a row, relative to its largest coefficient: schedulers compute in float32.
_FIT_TOLERANCE = 4e-6
#: Coefficients that move no value by more than this share are none.
_NEGLIGIBLE = 5e-7
_DIGITS = 9


@dataclass(frozen=True)
class MeasuredSampler:
    """A sampler table, and what else the loop's recording says.

    Attributes:
        table: rows over the network's inputs.
        weights: of the guidance branches in the order of the batch; they add up to 1.
        others: the network's other inputs, each (branches, ...), equal in every evaluation.
    """

    table: SamplerTable
    weights: tuple[float, ...]
    others: Mapping[str, NDArray[np.float32]]


def fit(recording: LoopRecording, steps: int, guidance: float | None = None) -> MeasuredSampler:
    """The table of ``recording``: every row uses as few earlier evaluations as reproduce it.

    Args:
        recording: of a loop with ``steps`` steps; some take more evaluations.
        steps: the user's count.
        guidance: scale s that the loop ran with; branch weights that differ from (1 - s, s) by rounding only become these.

    Raises:
        SpecError: when more history is needed than a table can hold.
    """
    if not all(np.isfinite(values).all() for values in recording.inputs):
        raise SpecError("the sampler gives values that are not finite")
    weights = _branch_weights(recording, guidance)
    outputs = [
        np.sum([w * recording.unit(i) for w, i in zip(weights, row, strict=True)], 0)
        for row in recording.outputs
    ]
    first = recording.inputs[0][recording.noises[0]]
    if np.abs(recording.inputs[0] - first * recording.unit(recording.noises[0])).max() > _FIT_TOLERANCE:
        raise SpecError("the sampler's first latent is not a multiple of the noise")
    rows = tuple(_row(recording, outputs, index) for index in range(len(recording.times)))
    table = SamplerTable(
        steps=steps, times=tuple(_rounded(time) for time in recording.times), first=_rounded(first), rows=rows
    )
    return MeasuredSampler(table, weights, _others(recording))


def _others(recording: LoopRecording) -> Mapping[str, NDArray[np.float32]]:
    first = recording.others[0]
    for values in recording.others[1:]:
        changing = [name for name in first if not np.array_equal(values[name], first[name])]
        if changing:
            raise SpecError(
                f"the network's input {changing[0]} changes from step to step, which a bundle cannot hold"
            )
    return first


def _branch_weights(recording: LoopRecording, guidance: float | None) -> tuple[float, ...]:
    branches = list(recording.outputs[0])
    if len(branches) == 1:
        return (1.0,)
    shares = recording.inputs[1][branches]
    if abs(shares.sum()) < 1e-12:
        raise SpecError("the network's output does not change the sample")
    weights = shares / shares.sum()
    if len(branches) == 2 and guidance is not None:
        exact = np.array([1.0 - guidance, guidance])
        if np.abs(weights - exact).max() <= 1e-5 * np.abs(exact).max():
            weights = exact
    return tuple(_rounded(value, 7) for value in weights)


def _row(recording: LoopRecording, outputs: Sequence[Vector], index: int) -> SamplerRow:
    target = recording.inputs[index + 1]
    drawn = recording.noises.get(index + 1)
    noise = () if drawn is None else (recording.unit(drawn),)
    for depth in range(1, min(index + 1, MAX_HISTORY) + 1):
        earlier = [index - j for j in range(depth)]
        columns = [*(recording.inputs[j] for j in earlier), *(outputs[j] for j in earlier), *noise]
        solution = _solved(columns, target)
        if solution is not None:
            return SamplerRow(
                u=_trimmed(solution[:depth]),
                m=_trimmed(solution[depth : 2 * depth]),
                noise=float(solution[2 * depth]) if noise else 0.0,
            )
    raise SpecError(
        f"step {index + 1} depends on more than {MAX_HISTORY} earlier evaluations, or on something that is no latent"
    )


def _solved(columns: Sequence[Vector], target: Vector) -> Vector | None:
    """Coefficients of ``target`` over ``columns``, as many of them 0 as possible; None where they do not reach it."""
    matrix, scale = np.stack(columns, 1), max(float(np.abs(target).max()), 1e-12)
    chosen = list(range(len(columns)))
    solution: Vector = np.zeros(len(columns))
    while True:
        solution[:] = 0.0
        solution[chosen] = np.linalg.lstsq(matrix[:, chosen], target, rcond=None)[0]
        effects = np.abs(solution) * np.abs(matrix).max(0)
        kept = [place for place in chosen if effects[place] > _NEGLIGIBLE * scale]
        if kept == chosen or not kept:
            break
        chosen = kept
    error = np.abs(matrix @ solution - target).max()
    return np.array([_rounded(value) for value in solution]) if error <= _FIT_TOLERANCE * scale else None


def _trimmed(values: Vector) -> tuple[float, ...]:
    numbers = [float(value) for value in values]
    while numbers and numbers[-1] == 0.0:
        numbers.pop()
    return tuple(numbers)


def _rounded(value: float, digits: int = _DIGITS) -> float:
    return float(f"{float(value):.{digits}g}")
