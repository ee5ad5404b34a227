"""What a run needs in memory, found without running it: ``mf-train STAGE --dry-run``.

A training step is run on fake tensors (shapes and types, no numbers), and the bytes that are alive are counted as
they come and go; the most there were, shared among many samples, is what one costs. Nothing is computed, so
base at 512 px needs no more memory than nano. An allocator's fragments come on top.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from microforge import layers, ssm
from microforge.spec import ModelSpec
from microforge.tokenizer import PromptTokenizer
from microforge.training.engine.batch_shard import Shard
from microforge.training.engine.optimizers import group_parameters
from microforge.training.runs.plan import StagePlan
from microforge.training.settings import EditSettings, FlowSettings, JudgedSettings, VAESettings
from microforge.training.stages.flow import FlowBatch, FlowNetwork, flow_terms, predict
from microforge.training.stages.vae import VAEStage
from microforge.vae import MicroForgeVAE

#: The GPU that the curriculum is made for, less what its driver and the allocator take.
CARD, OVERHEAD = 16 * 10**9, 15 * 10**8
#: Samples of the step that is probed: enough for its peak to be made of activations.
PROBE = 64


@dataclass(frozen=True)
class Footprint:
    """Bytes of a run; ``fixed`` and ``sample`` are those of one micro-batch while it is worked on."""

    trained: int  # parameters
    frozen: int  # parameters that are only used: of the VAE beside a flow, of a teacher, of a fixed encoder
    state: int  # weights, EMA and moments, and frozen weights
    fixed: int  # gradients, half-precision weights
    sample: int  # activations, at their highest

    def largest_batch(self, memory: int = CARD - OVERHEAD) -> int:
        """The most samples of a micro-batch that fit in ``memory`` bytes; 0 when none does."""
        return max(0, (memory - self.state - self.fixed) // self.sample)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operators return, while they live; not those of ``modules``."""

    def __init__(self, modules: Iterable[nn.Module] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()
        for module in modules:
            for value in (*module.parameters(), *module.buffers()):
                self._seen[value.untyped_storage()] = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        count = self._seen[storage] = storage.nbytes()
        self.now += count
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, count)

    def _remove(self, count: int) -> None:
        self.now -= count


def footprint(plan: StagePlan, teacher: ModelSpec | None = None) -> Footprint:
    """The bytes of a run of ``plan`` on one process.

    Args:
        teacher: of the stages kd and edit; reward and rewrite keep the weights they start from beside them in any case, edit where it keeps their generation.
    """
    settings = plan.settings
    with torch.device("meta"):
        step: _VAEStep | _FlowStep
        if isinstance(settings, VAESettings):
            step = _VAEStep(plan, settings)
        else:
            step = _FlowStep(plan, settings, teacher)
        beside = [] if isinstance(settings, VAESettings) else [MicroForgeVAE(plan.spec.vae), step.other]
    sample = _peak(plan, step) // PROBE
    whole = _count(step.network)
    trained = sum(p.numel() for p in step.network.parameters() if p.requires_grad)
    other = sum(_count(module) for module in beside if module is not None)
    groups = group_parameters(step.network, settings.optimizer.kind == "muon")
    moments = 2 * trained - sum(parameter.numel() for parameter in groups.hidden)  # Muon has one, AdamW two
    fixed = 4 * trained + (
        2 * whole if plan.loop.bfloat16 else 0
    )  # gradients, and the copies that autocast makes
    state = 4 * (2 * whole + moments + other)  # with the EMA
    return Footprint(trained, whole - trained + other, state, fixed, sample)


def _peak(plan: StagePlan, step: _VAEStep | _FlowStep) -> int:
    """The most bytes alive in a training step of ``PROBE`` samples, weights and optimizer not counted."""
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
        for cached in constants:  # fake ones must not meet a real network
            cached.cache_clear()
    peak: int = live.peak
    return peak


class _BlankImages(VAEStage):
    """The VAE stage on images without content."""

    samples = 1

    def _batch(self, step: int, shard: Shard) -> tuple[Tensor, Tensor]:
        height, width = self.crop or self.size
        factor = self.network.spec.downsample
        noise = torch.zeros(self.samples, self.spec.latent_channels, height // factor, width // factor)
        return torch.zeros(self.samples, 3, height, width), noise


class _VAEStep:
    """One step of the VAE stage, LPIPS left out: it is the user's own package."""

    other: nn.Module | None = None

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
        return self.stage.loss(self.stage.settings.steps - 1, Shard())["loss"]  # the last step has every term


class _FlowStep:
    """One step of flow, kd, edit, reward or rewrite; a sample is a caption with all its noise draws."""

    def __init__(self, plan: StagePlan, settings: FlowSettings, teacher: ModelSpec | None) -> None:
        self.spec, self.settings = plan.spec, settings
        self.cells = tuple(side // plan.spec.vae.downsample for side in plan.size)
        self.network = FlowNetwork(plan.spec)
        self.network.checkpoint_blocks(plan.loop.checkpoint_blocks)
        beside = teacher
        if isinstance(settings, JudgedSettings):  # who draws for reward is gone by then
            beside = plan.spec
        elif beside is None and isinstance(settings, EditSettings) and settings.keep:
            beside = plan.spec
        self.other = None if beside is None else FlowNetwork(beside).requires_grad_(False)

    def modules(self) -> list[nn.Module]:
        return [module for module in (self.network, self.other) if module is not None]

    def loss(self, samples: int) -> Tensor:
        # every row with a source, twice the tokens: more than a batch of edit that also generates needs
        batch = self._batch(samples, source=isinstance(self.settings, EditSettings))
        velocity, plan = predict(self.network, batch)
        loss = flow_terms(batch, velocity, plan, self.settings.diversity)["loss"]
        if own := self._own():
            batch = self._batch(samples * own, source=False)
            velocity, _ = predict(self.network, batch)
        if self.other is not None:
            with torch.no_grad():
                wanted, _ = predict(self.other, batch)
            loss = loss + (velocity - wanted).square().mean()
        return loss

    def _own(self) -> int:
        """Captions of the model's own drawings for each example; 0 for other stages than reward and rewrite."""
        return self.settings.judged_per_example if isinstance(self.settings, JudgedSettings) else 0

    def _batch(self, samples: int, source: bool) -> FlowBatch:
        spec, draws = self.spec, self.settings.draws
        ids = torch.ones(samples, spec.text_encoder.max_length, dtype=torch.long)
        z0 = torch.zeros(samples * draws, spec.latent_channels, *self.cells)
        t = torch.zeros(samples * draws)
        beside = torch.zeros_like(z0) if source else None
        return FlowBatch(ids, z0, torch.zeros_like(z0), t, torch.ones_like(t), draws, beside)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def describe(plan: StagePlan, teacher: ModelSpec | None, console: Console) -> dict[str, object]:
    """Print what a run of ``plan`` needs, and return it as JSON values."""
    found = footprint(plan, teacher)
    micro = plan.settings.batch // plan.loop.accumulate
    total = found.state + found.fixed + micro * found.sample
    height, width = plan.size
    table = Table(title=f"{plan.name}: {plan.spec.name} at {height}x{width}", show_header=False)
    rows = {
        "trained parameters": f"{found.trained:,}",
        "frozen parameters": f"{found.frozen:,}",
        "weights, EMA, optimizer": _gigabytes(found.state),
        "gradients, half-precision weights": _gigabytes(found.fixed),
        f"activations of one {'image' if plan.stage == 'vae' else 'caption'}": _gigabytes(found.sample),
        f"micro-batch of {micro}": _gigabytes(total),
        "largest micro-batch in 16 GB": str(found.largest_batch()),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    return {
        "stage": plan.stage, "config": plan.spec.name, "size": [height, width], "steps": plan.settings.steps,
        "batch": plan.settings.batch, "trained_parameters": found.trained, "frozen_parameters": found.frozen,
        "state_bytes": found.state, "fixed_bytes": found.fixed, "sample_bytes": found.sample,
        "micro_batch": micro, "total_bytes": total, "largest_micro_batch_16gb": found.largest_batch(),
    }  # fmt: skip


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3f} GB"
