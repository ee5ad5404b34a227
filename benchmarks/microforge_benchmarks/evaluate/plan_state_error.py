"""Relative error of a checkpoint's plan state in half precision, accumulated over all sampling steps."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microforge.backbone import BiSSM
from microforge.noise import standard_normal
from microforge.pipeline import MicroForgePipeline
from microforge.sampling import euler_step


@dataclass(frozen=True)
class PlanStateError:
    """Mean and largest relative error over ``prompts`` prompts; None when half precision overflows."""

    prompts: int
    mean: float | None
    max: float | None


def plan_state_error(pipeline: MicroForgePipeline, prompts: Sequence[str], seed: int = 0) -> PlanStateError:
    """Compare the plan after the last step in float16 with that in float32.

    As on a device, the latent stays in float32 between the steps and the plan is carried in half precision. The SSM
    mixers compute in float32 with half-precision weights, because their sums over tokens exceed the range of float16
    (``microforge_export.targets.coreml.precision``).
    """
    exact = _final_plan(pipeline, prompts, seed, torch.float32)
    half = _final_plan(_to_half(copy.deepcopy(pipeline)), prompts, seed, torch.float16)
    errors = (half - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    if not bool(errors.isfinite().all()):
        return PlanStateError(len(prompts), None, None)
    return PlanStateError(len(prompts), round(float(errors.mean()), 5), round(float(errors.max()), 5))


def _to_half(pipeline: MicroForgePipeline) -> MicroForgePipeline:
    """Convert ``pipeline`` in place to half precision, except for the computation of its SSM mixers."""
    pipeline.half()
    for module in pipeline.backbone.modules():
        if isinstance(module, BiSSM):
            module.float()
            module.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(), *inputs[1:]))
            module.register_forward_hook(lambda module, inputs, output: output.half())
    return pipeline


def _final_plan(
    pipeline: MicroForgePipeline, prompts: Sequence[str], seed: int, dtype: torch.dtype
) -> Tensor:
    """The plan (B, K, D) after the last step of the conditional branch, in float32."""
    spec = pipeline.spec
    assert pipeline.tokenizer is not None
    rows = [pipeline.tokenizer.encode(text, "generate", spec.text_encoder.max_length) for text in prompts]
    ids = torch.from_numpy(np.stack([row.ids for row in rows]))
    mask = torch.from_numpy(np.stack([row.mask for row in rows])).to(dtype)
    shape = (spec.latent_channels, *(side // spec.vae.downsample for side in spec.native_size))
    z = torch.from_numpy(np.stack([standard_normal(seed + index, shape) for index in range(len(prompts))]))
    with torch.no_grad():
        text, pooled = pipeline.text_encoder.encode(ids, mask)
        plan = pipeline.planner.empty(len(prompts), z.device, dtype)
        has_plan = torch.zeros(len(prompts), dtype=dtype)
        for t, t_next in itertools.pairwise(spec.sampler.timesteps):
            times = torch.full((len(prompts),), t, dtype=dtype)
            velocity, plan = pipeline.denoiser(z.to(dtype), times, text, mask, pooled, plan, has_plan)
            has_plan = torch.ones_like(has_plan)
            z = euler_step(z, velocity.float(), t, t_next)
    return plan.float()
