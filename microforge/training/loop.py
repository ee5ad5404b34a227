"""The loop every stage shares: optimizer, EMA, progress, log, samples, atomic state, divergence."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

from microforge.errors import DivergenceError
from microforge.training.report import plot_losses, save_sheet
from microforge.training.settings import LoopSettings, OptimizerSettings, learning_rate
from microforge.training.state import STATE, RunIdentity, load_state, save_state

#: Parameters of the SSM's decay, B and C: they learn slower and are not decayed (SPEC section 4).
SSM_PARTS = ("decay_f", "decay_b", "b_f", "b_b", "c_f", "c_b")


class Stage(Protocol):
    """What one stage trains and how it judges it."""

    samples_per_step: int

    @property
    def network(self) -> nn.Module:
        """The module that is trained."""

    def loss(self, step: int) -> Mapping[str, Tensor]:
        """Terms of step ``step``; the one called ``loss`` is minimised, all are logged."""

    def sheet(self, ema: nn.Module) -> Tensor:
        """A grid of sample images (3, H, W) in [0, 1]."""

    def write(self, folder: Path, ema: nn.Module) -> None:
        """Write the checkpoint made of ``ema``."""


@dataclass(frozen=True)
class Run:
    """One call of ``mf-train``."""

    folder: Path  # of this stage: state, log, samples
    checkpoint: Path  # where the checkpoint folder goes
    identity: RunIdentity
    steps: int
    optimizer: OptimizerSettings
    loop: LoopSettings


def make_optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW with three groups: matrices, vectors (no weight decay), and the SSM's own parameters."""
    groups: dict[str, list[nn.Parameter]] = {"matrix": [], "vector": [], "ssm": []}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        is_ssm = any(part in name.split(".") for part in SSM_PARTS)
        groups["ssm" if is_ssm else "matrix" if parameter.ndim > 1 else "vector"].append(parameter)
    decay = {"matrix": settings.weight_decay, "vector": 0.0, "ssm": 0.0}
    scale = {"matrix": 1.0, "vector": 1.0, "ssm": settings.ssm_rate}
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay[name], "scale": scale[name]}
            for name, parameters in groups.items()
            if parameters
        ],
        lr=settings.learning_rate,
        betas=(0.9, settings.beta2),
    )


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move ``ema`` toward ``network``; early steps use a shorter memory."""
    weight = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), weight)


def train(run: Run, stage: Stage, console: Console) -> float | None:
    """Train to ``run.steps``; a state in the folder is resumed.

    Returns:
        The last smoothed loss, or None when there was no step left to train.

    Raises:
        DivergenceError: when the loss is not finite or leaves its range; the state on disk stays good.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    network = stage.network
    ema = copy.deepcopy(network).requires_grad_(False).eval()
    optimizer = make_optimizer(network, run.optimizer)
    start = 0
    if (run.folder / STATE).is_file():
        start = load_state(run.folder, run.identity, network, ema, optimizer)
        console.print(f"resuming {run.identity.stage} at step {start} of {run.steps}")
    watch = _Watch(run, stage.samples_per_step, start)
    with _progress(console) as progress:
        task = progress.add_task(run.identity.stage, total=run.steps, completed=start, note="")
        for step in range(start, run.steps):
            terms = _step(run, stage, optimizer, step)
            update_ema(ema, network, run.optimizer.ema, step)
            note = watch.add(step, terms)
            progress.update(task, advance=1, note=note)
            _keep(run, stage, ema, optimizer, step + 1)
    if start < run.steps and run.steps % run.loop.save_every:
        save_state(run.folder, run.steps, run.identity, network, ema, optimizer)
    stage.write(run.checkpoint, ema)
    save_sheet(run.folder / "samples" / f"{run.steps:07d}.png", stage.sheet(ema))
    plot_losses(run.folder / "log.jsonl", run.folder / "loss.png")
    return None if math.isnan(watch.smoothed) else watch.smoothed


def _step(run: Run, stage: Stage, optimizer: torch.optim.AdamW, step: int) -> Mapping[str, Tensor]:
    rate = learning_rate(run.optimizer, step, run.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(run.loop.device, torch.bfloat16, enabled=run.loop.bfloat16):
        terms = dict(stage.loss(step))
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    terms["grad_norm"] = nn.utils.clip_grad_norm_(stage.network.parameters(), run.optimizer.clip)
    optimizer.step()
    return terms


def _keep(run: Run, stage: Stage, ema: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
    if done % run.loop.save_every == 0:
        save_state(run.folder, done, run.identity, stage.network, ema, optimizer)
        stage.write(run.checkpoint, ema)
    if done % run.loop.sample_every == 0 and done < run.steps:
        save_sheet(run.folder / "samples" / f"{done:07d}.png", stage.sheet(ema))


class _Watch:
    """Smooths, logs and guards the loss."""

    def __init__(self, run: Run, samples_per_step: int, start: int) -> None:
        self.run, self.samples_per_step = run, samples_per_step
        self.smoothed, self.best = math.nan, math.inf
        self.sums: dict[str, float] = {}
        self.count = 0
        self.clock = time.monotonic()
        self.note = ""
        self._forget_after(start)

    def _forget_after(self, start: int) -> None:
        """Drop log lines of steps that a resumed run will repeat."""
        path = self.run.folder / "log.jsonl"
        if path.is_file():
            kept = [
                line for line in path.read_text("utf-8").splitlines() if json.loads(line)["step"] <= start
            ]
            path.write_text("".join(line + "\n" for line in kept), "utf-8")

    def add(self, step: int, terms: Mapping[str, Tensor]) -> str:
        values = {name: float(value.detach()) for name, value in terms.items()}
        if not math.isfinite(values["loss"]):
            self._diverged(step + 1, values["loss"])
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if self.count == self.run.loop.log_every or step + 1 == self.run.steps:
            self._log(step + 1)
        return self.note

    def _diverged(self, done: int, loss: float) -> NoReturn:
        folder = self.run.folder
        raise DivergenceError(
            f"training diverged before step {done} (loss {loss:.4g}); the last good state is in {folder}"
        )

    def _log(self, done: int) -> None:
        means = {name: total / self.count for name, total in self.sums.items()}
        seconds = max(time.monotonic() - self.clock, 1e-9)
        rate = self.count * self.samples_per_step / seconds
        loss = means["loss"]
        self.smoothed = loss if math.isnan(self.smoothed) else 0.8 * self.smoothed + 0.2 * loss
        self.best = min(self.best, self.smoothed)
        if done > 500 and self.smoothed > 5.0 * self.best + 1.0:
            self._diverged(done, loss)
        row = {"step": done, "samples_per_s": round(rate, 1), **{k: round(v, 6) for k, v in means.items()}}
        with (self.run.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        self.note = f"loss {loss:.4f}  {rate:.0f} samples/s"
        self.sums, self.count, self.clock = {}, 0, time.monotonic()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
