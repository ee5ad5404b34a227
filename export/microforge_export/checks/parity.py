"""How far an artefact is from its reference, measured through the shipped runtime. No torch.

PSNR is taken over the reference's range: ``20 log10(max |reference| / rms(difference))`` for one output of
one evaluation, limited to -200 ... 200 dB (equal tensors get 200, NaN or infinity -200). A component's
metric is the worst over its outputs and its evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.files import Bundle
from microforge.bundle.targets import ImageParity, Parity
from microforge.errors import ParityError
from microforge_export.checks.golden import Array, Case
from microforge_runtimes import Session, open_session

LIMIT_DB = 200.0


def psnr_db(reference: Array, result: Array) -> float:
    """Peak signal-to-noise ratio of ``result`` over the range of ``reference``, in dB."""
    if reference.shape != result.shape or not np.isfinite(result).all():
        return -LIMIT_DB
    reference = reference.astype(np.float64)
    error = math.sqrt(float(np.mean(np.square(reference - result))))
    peak = float(np.abs(reference).max())
    if error == 0.0:
        return LIMIT_DB
    return -LIMIT_DB if peak == 0.0 else float(np.clip(20.0 * math.log10(peak / error), -LIMIT_DB, LIMIT_DB))


def max_abs(reference: Array, result: Array) -> float:
    """Largest absolute difference; the largest float32 when ``result`` is not finite or of another shape."""
    if reference.shape != result.shape or not np.isfinite(result).all():
        return float(np.finfo(np.float32).max)
    return float(np.abs(reference.astype(np.float64) - result).max())


def measure(session: Session, cases: Sequence[Case], *, threshold_db: float) -> Parity:
    """Worst difference of ``session`` over all outputs of all ``cases``."""
    psnr, difference = LIMIT_DB, 0.0
    for case in cases:
        results = session.run(case.inputs)
        for name, reference in case.outputs.items():
            psnr = min(psnr, psnr_db(reference, results[name]))
            difference = max(difference, max_abs(reference, results[name]))
    return Parity(psnr_db=round(psnr, 2), max_abs=difference, threshold_db=threshold_db)


def measure_components(
    bundle: Bundle, target: str, cases: Mapping[str, Sequence[Case]], *, threshold_db: float
) -> dict[str, Parity]:
    """Parity of every component in ``cases``, each loaded, run and freed by the runtime."""
    measured = {}
    for key, values in cases.items():
        session = open_session(bundle, target, key)
        try:
            measured[key] = measure(session, values, threshold_db=threshold_db)
        finally:
            session.close()
    return measured


def image_difference_255(reference: Array, image: NDArray[np.float32]) -> float:
    """Largest difference of any pixel of two images in [0, 1], in 1/255."""
    return round(min(max_abs(reference, image) * 255.0, 1e6), 4)


@dataclass(frozen=True)
class Pair:
    """One network at the same latent with the prompt and with the empty prompt."""

    conditional: Case
    empty: Case


def guidance_norm_ratio(
    pairs: Iterable[Pair], output: str, run: Callable[[Mapping[str, Array]], Mapping[str, Array]]
) -> float:
    """How much of the prompt's effect is left: norm of (conditional - unconditional) under ``run``, over the reference's.

    Both evaluations of every pair get the reference's inputs; norms are over all pairs together. 1 is perfect.
    ``output`` names the network's output.
    """
    reference = result = 0.0
    for pair in pairs:
        reference += _square(pair.conditional.outputs[output], pair.empty.outputs[output])
        values = [run(case.inputs)[output] for case in (pair.conditional, pair.empty)]
        result += _square(values[0], values[1])
    return float(np.sqrt(result / reference)) if reference > 0.0 else 1.0


def state_drift(reference: Mapping[str, Array], states: Mapping[str, Array]) -> float | None:
    """Largest |state - reference| / |reference| of the carried states; None for a model without one."""
    errors = [
        float(np.linalg.norm(states[name] - value) / max(float(np.linalg.norm(value)), 1e-12))
        for name, value in reference.items()
    ]
    return max(errors, default=None)


def _square(a: Array, b: Array) -> float:
    return float(np.square(a.astype(np.float64) - b).sum())


def shortfalls(target: str, parity: Mapping[str, Parity], images: Mapping[str, ImageParity]) -> list[str]:
    """What of ``target`` is below its threshold, one phrase each."""
    found = [
        f"{target} {key} has {value.psnr_db:.1f} dB, needed: {value.threshold_db:g} dB"
        for key, value in parity.items()
        if value.psnr_db < value.threshold_db
    ]
    found += [
        f"{target} image of {name} differs by {value.max_abs_255:.2f}/255, allowed: {value.threshold:g}/255"
        for name, value in images.items()
        if value.max_abs_255 > value.threshold
    ]
    return found


def require(target: str, parity: Mapping[str, Parity], images: Mapping[str, ImageParity]) -> None:
    """Refuse a target that falls short anywhere.

    Raises:
        ParityError: names every component and image that does.
    """
    found = shortfalls(target, parity, images)
    if found:
        raise ParityError("; ".join(found))
