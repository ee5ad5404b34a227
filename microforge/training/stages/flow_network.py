"""The network of the denoiser stages, their batches, and the loss terms of rectified flow.

Letters: B captions, S = B * noise samples per caption, L text tokens, K plan tokens, D width, C h w latent channels, height
and width.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from microforge.checkpoint import Checkpoint
from microforge.denoiser import Denoiser, build_backbone, build_planner
from microforge.planner import plan_similarity
from microforge.sampling import interpolate, loss_weight, shifted_time, velocity_target
from microforge.spec import ModelSpec
from microforge.text_encoder import PAD_ID, SimpleTextEncoder
from microforge.training.loop_options import LoopSettings
from microforge.training.losses.terms import weighted_velocity

#: Captions are padded to multiples of this.
LENGTH_STEP = 8
#: The same for a compiled network, which is compiled anew for every length.
COMPILED_LENGTH_STEP = 16


class FlowNetwork(nn.Module):
    """Text encoder and denoiser: everything that the denoiser stages train."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.text_encoder = SimpleTextEncoder.from_spec(spec.text_encoder)
        self.denoiser = Denoiser(build_backbone(spec), build_planner(spec))

    def load(self, checkpoint: Checkpoint) -> None:
        """Load the weights of a checkpoint.

        Raises:
            CheckpointError: when weights are missing or do not fit.
        """
        checkpoint.load_into("text_encoder", self.text_encoder)
        checkpoint.load_into("backbone", self.denoiser.backbone)
        checkpoint.load_into("planner", self.denoiser.planner)

    def checkpoint_blocks(self, enabled: bool) -> None:
        """Turn activation checkpointing on or off: blocks are recomputed in the backward pass."""
        self.denoiser.backbone.checkpoint_blocks = self.denoiser.planner.checkpoint_blocks = enabled

    def compile_denoiser(self) -> None:
        """``torch.compile`` the blocks of planner and backbone one by one; equal blocks are compiled once."""
        # the cached constants of the scan are pure functions, so tracing through the cache is correct
        warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
        torch._dynamo.config.recompile_limit = 32  # a variant per scan path, with and without a source
        for block in (*self.denoiser.backbone.blocks, *self.denoiser.planner.layers):
            block.compile(dynamic=False)


@dataclass(frozen=True)
class FlowBatch:
    """One piece of a step's batch: B captions and ``noise_samples`` noisy versions of each one's latent."""

    ids: Tensor  # (B, L)
    z0: Tensor  # (S, C, h, w) clean latents
    noise: Tensor  # (S, C, h, w)
    t: Tensor  # (S,) times
    has_plan: Tensor  # (S,) 1 where the planner gets a previous plan
    noise_samples: int
    source: Tensor | None = None  # (S, C, h, w) clean source latents of edits

    @property
    def z(self) -> Tensor:
        """Noisy latents (S, C, h, w)."""
        return interpolate(self.z0, self.noise, self.t)


def predict(network: FlowNetwork, batch: FlowBatch) -> tuple[Tensor, Tensor]:
    """Velocity (S, C, h, w) and plan (S, K, D) of ``network`` for a batch.

    A first planner pass without gradient supplies the previous plan (RIN, arXiv 2212.11972).
    """
    mask = (batch.ids != PAD_ID).float()  # (B, L)
    text, pooled = network.text_encoder.encode(batch.ids, mask)  # (B, L, E), (B, E)
    text, mask, pooled = (value.repeat_interleave(batch.noise_samples, 0) for value in (text, mask, pooled))
    z, planner = batch.z, network.denoiser.planner
    with torch.no_grad():
        empty = planner.empty(z.shape[0], z.device)
        first = torch.zeros_like(batch.has_plan)
        previous = planner(z, batch.t, pooled, empty, first, batch.source).float()  # (S, K, D)
    velocity, plan = network.denoiser(z, batch.t, text, mask, pooled, previous, batch.has_plan, batch.source)
    return velocity, plan


def flow_terms(
    batch: FlowBatch, velocity: Tensor, plan: Tensor, diversity: float, target: Tensor | None = None
) -> dict[str, Tensor]:
    """Weighted velocity matching and, with weight ``diversity``, the similarity of plan tokens: means over samples.

    Args:
        batch: What the prediction was made from.
        velocity: (S, C, h, w), predicted.
        plan: (S, K, D), predicted.
        diversity: Weight of the plan similarity.
        target: Velocity (S, C, h, w) to match; the data's by default.
    """
    if target is None:
        target = velocity_target(batch.z0, batch.noise)
    flow = weighted_velocity(velocity, target, loss_weight(batch.t))
    similarity = plan_similarity(plan)
    return {"loss": flow + diversity * similarity, "flow": flow, "plan_similarity": similarity}


def sample_noise(
    shape: tuple[int, ...], time_shift: float, self_condition: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise of ``shape`` (S, ...), times (S,), and 1 for samples with a previous plan (S,), on the generator's device."""
    count, device = shape[0], generator.device
    noise = torch.randn(shape, generator=generator, device=device)
    # stratified times: one per equal slice of [0, 1], the same distribution with less variance
    t = torch.randperm(count, generator=generator, device=device).float()
    t = (t + torch.rand(count, generator=generator, device=device)) / count
    has_plan = (torch.rand(count, generator=generator, device=device) < self_condition).float()
    return noise, shifted_time(t, time_shift), has_plan


def frozen_network(checkpoint: Checkpoint, loop: LoopSettings) -> FlowNetwork:
    """The network of a checkpoint on the run's device, without gradients.

    Raises:
        CheckpointError: when weights are missing or do not fit.
    """
    network = FlowNetwork(checkpoint.spec).requires_grad_(False).eval()
    network.load(checkpoint)
    network.to(loop.device)
    if loop.compile:
        network.compile_denoiser()
    return network


def without_padding(ids: Tensor, multiple: int = LENGTH_STEP) -> Tensor:
    """Ids (B, L) cut to the longest caption, rounded up to a multiple of ``multiple``."""
    longest = int((ids != PAD_ID).sum(1).max())
    return ids[:, : -(-longest // multiple) * multiple]


def on_device(tensor: Tensor, device: str) -> Tensor:
    """A CPU tensor copied to ``device``, without blocking when that is a GPU."""
    if not device.startswith("cuda"):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
