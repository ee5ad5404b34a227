"""Noise levels of a sampler's rows, for samples that start from an image or keep a part of one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from microforge.bundle.sampling import Level, SamplerRow
from microforge_export.providers.diffusers.recurrence import MeasuredSampler
from microforge_export.providers.diffusers.sampling_loop import SamplingLoop, scaled_input

#: Clean latents are predicted from levels with at least this share of the image.
_LEAST_IMAGE = 1e-2


def noised(scheduler: Any, clean: Tensor, noise: Tensor, index: int) -> Tensor:
    """``clean`` at the noise level of the evaluation ``index`` as the scheduler has it; unchanged after the last one.

    Raises:
        AttributeError: for a scheduler that cannot add noise.
    """
    if index >= len(scheduler.timesteps):
        return clean
    times = scheduler.timesteps[index : index + 1]
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(clean, noise, times)  # type: ignore[no-any-return]
    return scheduler.scale_noise(clean, times, noise)  # type: ignore[no-any-return]


def with_levels(
    loop: SamplingLoop, sampler: MeasuredSampler, is_right: Callable[[MeasuredSampler], bool]
) -> MeasuredSampler:
    """``sampler`` with the noise level of every row where the scheduler has them and ``is_right`` confirms them."""
    levels = _levels(loop.scheduler, len(sampler.table.rows))
    if levels is None:
        return sampler
    kind = str(loop.scheduler.config.get("prediction_type") or "flow_prediction")
    rows = [
        SamplerRow(u=row.u, m=row.m, noise=row.noise, level=level, clean=_clean(kind, level))
        for row, level in zip(sampler.table.rows, levels, strict=True)
    ]
    levelled = dataclasses.replace(sampler, table=sampler.table.model_copy(update={"rows": tuple(rows)}))
    return levelled if is_right(levelled) else sampler


def _levels(scheduler: Any, count: int) -> list[Level] | None:
    if len(scheduler.timesteps) != count or not (
        hasattr(scheduler, "add_noise") or hasattr(scheduler, "scale_noise")
    ):
        return None
    levels: list[Level] = []
    for index in range(count):
        fresh = copy.deepcopy(scheduler)
        fresh._step_index = fresh._begin_index = None
        unit = torch.eye(2, dtype=torch.float32).reshape(2, 1, 2, 1)
        mixed = noised(fresh, unit[:1], unit[1:], index)
        pair = scaled_input(fresh, mixed, fresh.timesteps[index]).reshape(2).double().tolist()
        levels.append((float(f"{pair[0]:.9g}"), float(f"{pair[1]:.9g}")))
    return levels


def _clean(kind: str, level: Level) -> Level | None:
    """(a, b) with a * u + b * m the predicted clean latent, for a network that predicts ``kind``."""
    image, noise = level
    if kind == "epsilon" and image >= _LEAST_IMAGE:
        return 1.0 / image, -noise / image
    return {"v_prediction": (image, -noise), "sample": (0.0, 1.0), "flow_prediction": (1.0, -noise)}.get(kind)
