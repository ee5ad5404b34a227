"""Replays a measured sampler against the library on random data: what the probe cannot see shows here.

Basis vectors lie inside every clipping range, so a sampler that clips looks linear to the probe. Random latents and a
random non-linear network leave that range; a table that does not follow the library then is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microforge.errors import SpecError
from microforge.noise import standard_normal
from microforge_export.providers.diffusers.noise_levels import noised, with_levels
from microforge_export.providers.diffusers.probe import probe
from microforge_export.providers.diffusers.recurrence import MeasuredSampler, fit
from microforge_export.providers.diffusers.sampling_loop import AfterStep, SamplingLoop
from microforge_runtimes import latent_blending
from microforge_runtimes.sampler import Floats, sample, weighted_sum

#: Largest relative error of a final latent.
MAX_ERROR = 1e-5
#: Options of schedulers that make a sampler non-linear, and the value that turns each off.
NON_LINEAR: Mapping[str, Any] = {"clip_sample": False, "thresholding": False}


def measured_sampler(loop: SamplingLoop, steps: int, guidance: float | None = None) -> MeasuredSampler:
    """The sampler of ``loop``, checked against the library on random data; for the arguments see ``fit``.

    Raises:
        SpecError: for a sampler that is not linear; names the option that makes it so.
    """
    variance = str(loop.scheduler.config.get("variance_type"))
    if "learned" in variance:
        raise SpecError(
            f"{type(loop.scheduler).__name__}: variance_type={variance!r} makes the sampler non-linear, which a bundle cannot "
            "hold; choose another sampler with --scheduler CLASS"
        )
    sampler, error = _measured(loop, steps, guidance)
    if sampler is not None and error <= MAX_ERROR:
        return with_levels(loop, sampler, lambda item: _blended_error(loop, item) <= MAX_ERROR)
    name, at_fault = type(loop.scheduler).__name__, _options_at_fault(loop, steps, guidance)
    if at_fault:
        raise SpecError(
            f"{name}: {' and '.join(at_fault)} makes the sampler non-linear, which a bundle cannot hold; turn it off in "
            "scheduler/scheduler_config.json, or choose another sampler with --scheduler CLASS"
        )
    raise SpecError(
        f"{name}: its sampler table differs from the library by {error:.1e}, allowed: {MAX_ERROR:g}; choose another "
        "sampler with --scheduler CLASS, such as DDIMScheduler or EulerDiscreteScheduler"
    )


def _measured(loop: SamplingLoop, steps: int, guidance: float | None) -> tuple[MeasuredSampler | None, float]:
    """The table of ``loop`` and its error on random data; None where there is no table."""
    try:
        sampler = fit(probe(loop), steps, guidance)
    except SpecError:
        if _options_on(loop.scheduler):
            return None, float("inf")
        raise
    return sampler, replay_error(loop, sampler)


def _options_on(scheduler: Any) -> dict[str, Any]:
    """The non-linear options that ``scheduler`` uses, with the value that turns each off."""
    return {name: off for name, off in NON_LINEAR.items() if scheduler.config.get(name)}


def _options_at_fault(loop: SamplingLoop, steps: int, guidance: float | None) -> list[str]:
    """The options without which the sampler would be linear, found by trying."""
    on = _options_on(loop.scheduler)
    for chosen in (*({name: off} for name, off in on.items()), on):
        with _changed(loop.scheduler, chosen):
            sampler, error = _measured(loop, steps, guidance)
        if sampler is not None and error <= MAX_ERROR and chosen:
            return [f"{name}={loop.scheduler.config[name]!r}" for name in chosen]
    return []


@contextmanager
def _changed(scheduler: Any, options: Mapping[str, Any]) -> Iterator[None]:
    before = scheduler._internal_dict
    scheduler._internal_dict = type(before)({**before, **options})
    try:
        yield
    finally:
        scheduler._internal_dict = before


def replay_error(loop: SamplingLoop, sampler: MeasuredSampler, seed: int = 1) -> float:
    """Largest difference of the final latents, over the largest value of the library's: random noise and network."""
    return _error(_replayed(loop, sampler, seed), _sampled(loop, sampler, seed))


def _blended_error(loop: SamplingLoop, sampler: MeasuredSampler, seed: int = 2) -> float:
    """As ``replay_error``, with a part of the latents kept at the noise level of every step, as for inpainting."""
    known, mask = _numbers(loop, seed, 1000), _numbers(loop, seed, 1001) > 0.3
    blend = latent_blending.after_step(known, _numbers(loop, seed, 0), (~mask).astype(np.float32), None)

    def after(latents: Tensor, evaluations: int) -> Tensor:
        level = noised(
            loop.scheduler, torch.from_numpy(known), torch.from_numpy(_numbers(loop, seed, 0)), evaluations
        )
        return torch.where(torch.from_numpy(mask), level, latents)

    return _error(_replayed(loop, sampler, seed, after), _sampled(loop, sampler, seed, blend))


def _error(reference: Floats, result: Floats) -> float:
    return float(np.abs(result - reference).max() / np.abs(reference).max())


def _numbers(loop: SamplingLoop, seed: int, index: int) -> Floats:
    return standard_normal(seed, loop.latent_shape, index * int(np.prod(loop.latent_shape)))


def _replayed(
    loop: SamplingLoop, sampler: MeasuredSampler, seed: int, after: AfterStep | None = None
) -> Floats:
    """The library's final latent."""

    def denoise(latents: Tensor, time: float, others: Mapping[str, Tensor]) -> Tensor:
        rows = [_network(row[None].numpy(), time, branch) for branch, row in enumerate(latents)]
        return torch.from_numpy(np.concatenate(rows)).to(latents.dtype)

    with torch.no_grad():
        final = loop.run(denoise, lambda index: torch.from_numpy(_numbers(loop, seed, index)), after)
        if after is not None:  # some loops end with another result of the last step
            final = after(final, len(sampler.table.rows))
    values: Floats = final.numpy()
    return values


def _sampled(
    loop: SamplingLoop, sampler: MeasuredSampler, seed: int, after: Callable[..., Floats] | None = None
) -> Floats:
    """The runtime's final latent."""
    weights = sampler.weights

    def evaluate(latent: Floats, time: float) -> tuple[Floats, Mapping[str, Floats]]:
        outputs = [_network(latent, time, branch) for branch in range(len(weights))]
        return weighted_sum(zip(weights, outputs, strict=True)), {}

    start = weighted_sum([(sampler.table.first, _numbers(loop, seed, 0))])
    return sample(sampler.table, evaluate, start, lambda index: _numbers(loop, seed, index), after=after)


def _network(latent: Floats, time: float, branch: int) -> Floats:
    """A non-linear network of no meaning whose outputs leave every clipping range."""
    mixed = 0.9 * latent + 0.4 * np.roll(latent, 1, 3) - 0.3 * np.roll(latent, 2, 2)
    values: Floats = (2.0 * np.tanh(mixed + 0.2 * branch) + 0.3 * np.sin(time / 100.0)).astype(np.float32)
    return values
