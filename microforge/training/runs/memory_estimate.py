"""The memory that a run would need, computed without running it (``--dry-run``).

One training step runs on fake tensors (shapes and types without data), and the bytes alive at any moment are counted; the
peak of a step with many samples, divided by their number, is the cost of one. Nothing is computed, so base at 512 px needs
no more memory than nano. Fragmentation of a real allocator comes on top.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from microforge import layers, ssm
from microforge.spec import ModelSpec
from microforge.tokenizer import PromptTokenizer
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.optimizers import group_parameters
from microforge.training.runs.plan import StagePlan
from microforge.training.settings import EditSettings, FeedbackSettings, FlowSettings, VAESettings
from microforge.training.stages.flow_network import FlowBatch, FlowNetwork, flow_terms, predict
from microforge.training.stages.vae import VAEStage
from microforge.vae import MicroForgeVAE

#: The GPU that the curricula are made for, and what its driver and the allocator take of it.
GPU_BYTES, OVERHEAD = 16 * 10**9, 15 * 10**8
#: Samples of the counted step: enough for activations to dominate its peak.
PROBE = 64


@dataclass(frozen=True)
class MemoryFootprint:
    """Bytes of a run; ``fixed`` and ``sample`` are those of a micro-batch while it is processed."""

    trained: int  # parameters
    frozen: int  # parameters that are not trained: the VAE beside a flow, a teacher, a fixed encoder
    state: int  # weights, EMA, moments and frozen weights
    fixed: int  # gradients, half-precision copies of weights
    sample: int  # activations of one sample at their peak

    def largest_batch(self, memory: int = GPU_BYTES - OVERHEAD) -> int:
        """The largest micro-batch that fits in ``memory`` bytes; 0 when none does."""
        return max(0, (memory - self.state - self.fixed) // self.sample)


@dataclass(frozen=True)
class MemoryEstimate:
    """A plan and the memory that it needs on one process."""

    plan: StagePlan
    footprint: MemoryFootprint

    @property
    def micro_batch(self) -> int:
        """Rows of one micro-batch."""
        return self.plan.settings.batch // self.plan.loop.accumulate

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        needs = self.footprint
        return needs.state + needs.fixed + self.micro_batch * needs.sample

    def values(self) -> dict[str, object]:
        """The estimate as JSON values."""
        plan, needs = self.plan, self.footprint
        return {
            "stage": plan.stage,
            "config": plan.spec.name,
            "size": list(plan.size),
            "steps": plan.settings.steps,
            "batch": plan.settings.batch,
            "trained_parameters": needs.trained,
            "frozen_parameters": needs.frozen,
            "state_bytes": needs.state,
            "fixed_bytes": needs.fixed,
            "sample_bytes": needs.sample,
            "micro_batch": self.micro_batch,
            "total_bytes": self.total,
            "largest_micro_batch_16gb": needs.largest_batch(),
        }

    def table(self) -> Table:
        """The estimate for people."""
        plan, needs = self.plan, self.footprint
        height, width = plan.size
        table = Table(title=f"{plan.name}: {plan.spec.name} at {height}x{width}", show_header=False)
        rows = {
            "trained parameters": f"{needs.trained:,}",
            "frozen parameters": f"{needs.frozen:,}",
            "weights, EMA, optimizer": _gigabytes(needs.state),
            "gradients, half-precision weights": _gigabytes(needs.fixed),
            f"activations of one {'image' if plan.stage == 'vae' else 'caption'}": _gigabytes(needs.sample),
            f"micro-batch of {self.micro_batch}": _gigabytes(self.total),
            "largest micro-batch in 16 GB": str(needs.largest_batch()),
        }
        for name, value in rows.items():
            table.add_row(name, value)
        return table


def estimate(plan: StagePlan, teacher: ModelSpec | None) -> MemoryEstimate:
    """The memory that a run of ``plan`` needs; ``teacher`` as in ``footprint``."""
    return MemoryEstimate(plan, footprint(plan, teacher))


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of live storages that operators return; the storages of ``modules`` are not counted."""

    def __init__(self, modules: Iterable[nn.Module] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()
        for module in modules:
            for value in (*module.parameters(), *module.buffers()):
                self._sizes[value.untyped_storage()] = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._sizes:
            return
        count = self._sizes[storage] = storage.nbytes()
        self.now += count
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, count)

    def _remove(self, count: int) -> None:
        self.now -= count


def footprint(plan: StagePlan, teacher: ModelSpec | None = None) -> MemoryFootprint:
    """The bytes of a run of ``plan`` on one process.

    Args:
        plan: The run.
        teacher: The teacher of kd or the reference of edit. Reward, rewrite and an edit stage that preserves generation
            keep their starting weights in any case.
    """
    settings = plan.settings
    with torch.device("meta"):
        step: _VAEStep | _FlowStep
        if isinstance(settings, VAESettings):
            step = _VAEStep(plan, settings)
        else:
            step = _FlowStep(plan, settings, teacher)
        frozen = [] if isinstance(settings, VAESettings) else [MicroForgeVAE(plan.spec.vae), step.reference]
    sample = _peak(plan, step) // PROBE
    whole = _count(step.network)
    trained = sum(p.numel() for p in step.network.parameters() if p.requires_grad)
    other = sum(_count(module) for module in frozen if module is not None)
    groups = group_parameters(step.network, settings.optimizer.kind == "muon")
    moments = 2 * trained - sum(parameter.numel() for parameter in groups.hidden)  # Muon has one, AdamW two
    half_precision = 2 * whole if plan.loop.bfloat16 else 0  # autocast's copies
    fixed = 4 * trained + half_precision  # with the gradients
    state = 4 * (2 * whole + moments + other)  # with the EMA
    return MemoryFootprint(trained, whole - trained + other, state, fixed, sample)


def _peak(plan: StagePlan, step: _VAEStep | _FlowStep) -> int:
    """Peak bytes of a training step of ``PROBE`` samples, without weights and optimizer."""
    device = torch.device(plan.loop.device)
    constants = (layers.position_features, ssm._dense_order, ssm._chunk_orders)
    for cached in constants:
        cached.cache_clear()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), device:
            for module in step.modules():
                module.to_empty(device=device)
            with LiveBytes(step.modules()) as live:
                with torch.autocast(device.type, torch.bfloat16, enabled=plan.loop.bfloat16):
                    loss = step.loss(PROBE)
                loss.backward()  # type: ignore[no-untyped-call]
    finally:
        for cached in constants:  # a real network must not get fake constants
            cached.cache_clear()
    peak: int = live.peak
    return peak


class _BlankImages(VAEStage):
    """The VAE stage on blank images."""

    samples = 1

    def _batch(self, step: int, shard: BatchShard) -> tuple[Tensor, Tensor]:
        height, width = self.crop or self.size
        factor = self.network.spec.downsample
        noise = torch.zeros(self.samples, self.spec.latent_channels, height // factor, width // factor)
        return torch.zeros(self.samples, 4 if self.spec.vae.alpha else 3, height, width), noise


class _VAEStep:
    """One step of the VAE stage, without LPIPS, whose package is the user's."""

    reference: nn.Module | None = None

    def __init__(self, plan: StagePlan, settings: VAESettings) -> None:
        loop = replace(plan.loop, device="meta")
        settings = replace(settings, lpips=0.0)
        self.stage = _BlankImages(plan.spec, settings, loop, plan.size, PromptTokenizer.load())
        self.stage.decoder_only = plan.decoder_only
        self.network = self.stage.network
        self.network.encoder.requires_grad_(not plan.decoder_only)

    def modules(self) -> list[nn.Module]:
        return [value for value in vars(self.stage).values() if isinstance(value, nn.Module)]

    def loss(self, samples: int) -> Tensor:
        self.stage.samples = samples
        last = self.stage.settings.steps - 1  # every term is active
        return self.stage.loss(last, WHOLE)["loss"]


class _FlowStep:
    """One step of a denoiser stage; a sample is a caption with all its noise samples."""

    def __init__(self, plan: StagePlan, settings: FlowSettings, teacher: ModelSpec | None) -> None:
        self.spec, self.settings = plan.spec, settings
        self.latent_size = tuple(side // plan.spec.vae.downsample for side in plan.size)
        self.network = FlowNetwork(plan.spec)
        self.network.checkpoint_blocks(plan.loop.checkpoint_blocks)
        reference = teacher
        if isinstance(settings, FeedbackSettings):  # the generator of the samples is freed by then
            reference = plan.spec
        elif reference is None and isinstance(settings, EditSettings) and settings.preserve_generation:
            reference = plan.spec
        self.reference = None if reference is None else FlowNetwork(reference).requires_grad_(False)

    def modules(self) -> list[nn.Module]:
        return [module for module in (self.network, self.reference) if module is not None]

    def loss(self, samples: int) -> Tensor:
        # every row with a source, twice the tokens: an upper bound for batches that also generate
        batch = self._batch(samples, source=isinstance(self.settings, EditSettings))
        velocity, plan = predict(self.network, batch)
        loss = flow_terms(batch, velocity, plan, self.settings.diversity)["loss"]
        if judged := self._judged():
            batch = self._batch(samples * judged, source=False)
            velocity, _ = predict(self.network, batch)
        if self.reference is not None:
            with torch.no_grad():
                target, _ = predict(self.reference, batch)
            loss = loss + (velocity - target).square().mean()
        return loss

    def _judged(self) -> int:
        """Prompts with judged samples for each example; 0 for stages without such samples."""
        return self.settings.judged_per_example if isinstance(self.settings, FeedbackSettings) else 0

    def _batch(self, samples: int, source: bool) -> FlowBatch:
        spec, each = self.spec, self.settings.noise_samples
        ids = torch.ones(samples, spec.text_encoder.max_length, dtype=torch.long)
        z0 = torch.zeros(samples * each, spec.latent_channels, *self.latent_size)
        t = torch.zeros(samples * each)
        sources = torch.zeros_like(z0) if source else None
        return FlowBatch(ids, z0, torch.zeros_like(z0), t, torch.ones_like(t), each, sources)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3f} GB"
