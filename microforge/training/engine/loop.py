"""The loop every stage shares: step, EMA, atomic state, last and best checkpoint, samples."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from torch import Tensor, nn

from microforge.checkpoint import CONFIG
from microforge.io.atomic import atomic_folder
from microforge.training.engine.batch_shard import Shard
from microforge.training.engine.distributed import ALONE, Processes
from microforge.training.engine.monitor import LOG, Watch, progress_line
from microforge.training.engine.optimizers import make_optimizers, set_rate, take_step, update_ema
from microforge.training.engine.plots import plot_losses, save_sheet
from microforge.training.engine.state import (
    STATE,
    Parts,
    RunIdentity,
    Standing,
    load_state,
    save_state,
)
from microforge.training.engine.time_budget import Budget
from microforge.training.settings import LoopSettings, OptimizerSettings, learning_rate

#: The checkpoint of the lowest smoothed loss, beside the last one.
BEST = "best"


class Stage(Protocol):
    """What one stage trains and how it judges it.

    A step draws its *whole* batch, of all processes and micro-batches, from generators seeded by the step's
    number, and works on the rows that ``shard`` names; its terms are means over those rows, so that the mean
    over the shards is the term of the whole batch.
    """

    samples_per_step: int  # of all processes

    @property
    def network(self) -> nn.Module:
        """The module that is trained."""

    @property
    def adversary(self) -> nn.Module | None:
        """A second module with an optimizer of its own (a discriminator), or None; the same one all the run."""

    @property
    def adversary_optimizer(self) -> OptimizerSettings:
        """How the adversary learns."""

    def loss(self, step: int, shard: Shard) -> Mapping[str, Tensor]:
        """Terms of step ``step``; the one called ``loss`` is minimised, all are logged.

        A term called ``score`` is what the best checkpoint has least of, where the loss would not do.
        """

    def adversary_loss(self, step: int, shard: Shard) -> Mapping[str, Tensor]:
        """Terms of the adversary, {} when it does not learn at this step.

        Called once for every shard that ``loss`` was called with, after the network's update of the same step.
        """

    def sheet(self, ema: nn.Module) -> Tensor:
        """A grid of sample images (3, H, W) in [0, 1]."""

    def write(self, folder: Path, ema: nn.Module) -> None:
        """Write the checkpoint made of ``ema``."""


class WithoutAdversary:
    """What a stage inherits that trains one network alone."""

    adversary: nn.Module | None = None
    adversary_optimizer = OptimizerSettings(1e-4)  # of no one

    def adversary_loss(self, step: int, shard: Shard) -> Mapping[str, Tensor]:
        """Never called: there is no adversary."""
        return {}


@dataclass(frozen=True)
class Run:
    """One call of ``mf-train``."""

    folder: Path  # of this stage: state, log, samples, best
    checkpoint: Path  # where the last checkpoint goes
    identity: RunIdentity
    steps: int
    optimizer: OptimizerSettings
    loop: LoopSettings
    setting: str = ""  # scores are compared within it


@dataclass(frozen=True)
class _Trained:
    network: nn.Module
    ema: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    adversary: nn.Module | None
    adversary_optimizers: dict[str, torch.optim.Optimizer]

    @property
    def parts(self) -> Parts:
        modules = {"network": self.network, "ema": self.ema}
        if self.adversary is not None:
            modules["adversary"] = self.adversary
        against = {f"adversary_{name}": value for name, value in self.adversary_optimizers.items()}
        return Parts(modules, self.optimizers | against)


def train(run: Run, stage: Stage, console: Console, processes: Processes = ALONE) -> float | None:
    """Train to ``run.steps``; a state in the folder is resumed.

    Returns:
        The last smoothed loss, or None when there was no step left to train.

    Raises:
        DivergenceError: when the loss is not finite or leaves its range; the state on disk stays good.
        CheckpointError: when the state is damaged, or belongs to another run.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    if processes.is_main:
        _sweep(run)
    trained = _assemble(run, stage)
    standing = _resume(run, trained, console, processes)
    start = standing.step
    watch = Watch(run.folder, run.loop, run.steps, stage.samples_per_step, standing, processes)
    with progress_line(console, visible=processes.is_main) as progress:
        task = progress.add_task(run.identity.stage, total=run.steps, completed=start, note="")
        budget = (
            None
            if run.loop.minutes is None
            else Budget(run.loop.minutes, run.optimizer.decay_fraction, start)
        )
        step = start
        while step < run.steps:
            terms = _step(run, stage, trained, step, processes)
            update_ema(trained.ema, trained.network, run.optimizer.ema, step)
            step += 1
            if budget is not None:
                run = replace(run, steps=processes.agree(budget.steps(step, run.steps)))
                watch.steps = run.steps
            progress.update(task, completed=step, total=run.steps, note=watch.add(step - 1, terms))
            if processes.is_main:
                _keep(run, stage, trained, watch, step)
    if processes.is_main:
        if start >= run.steps:  # no step was left, but what the stage stands on may have changed
            stage.write(run.checkpoint, trained.ema)
            _draw(run, stage, trained, watch, start)
        if (run.folder / LOG).is_file():
            plot_losses(run.folder / LOG, run.folder / "loss.png")
    watch.close()
    processes.wait()
    return None if start >= run.steps else watch.standing.smoothed


def _assemble(run: Run, stage: Stage) -> _Trained:
    network, adversary = stage.network, stage.adversary
    ema = copy.deepcopy(network).requires_grad_(False).eval()
    against = {} if adversary is None else make_optimizers(adversary, stage.adversary_optimizer)
    return _Trained(network, ema, make_optimizers(network, run.optimizer), adversary, against)


def _resume(run: Run, trained: _Trained, console: Console, processes: Processes) -> Standing:
    """Load the state in the run's folder, if there is one; scores of another setting are forgotten."""
    standing = Standing(setting=run.setting)
    if (run.folder / STATE).is_file():
        found = load_state(run.folder, run.identity, trained.parts)
        if processes.is_main:
            console.print(f"resuming {run.identity.stage} at step {found.step} of {run.steps}")
        same = found.setting == run.setting
        standing = found if same else replace(standing, step=found.step)
    processes.check_equal(trained.network, standing.step)
    return standing


def _step(run: Run, stage: Stage, trained: _Trained, step: int, processes: Processes) -> Mapping[str, Tensor]:
    """One update of the network, then one of the adversary where the stage wants it."""
    shards = processes.shards(run.loop.accumulate)
    set_rate(trained.optimizers, learning_rate(run.optimizer, step, run.steps))
    terms = _gradients(run.loop, stage.loss, step, shards)
    processes.average_gradients(trained.network)
    terms["grad_norm"] = take_step(trained.network, trained.optimizers, run.optimizer.clip)
    if trained.adversary is not None:
        settings = stage.adversary_optimizer
        found = _gradients(run.loop, stage.adversary_loss, step, shards)
        if found:
            set_rate(trained.adversary_optimizers, learning_rate(settings, step, run.steps))
            processes.average_gradients(trained.adversary)
            take_step(trained.adversary, trained.adversary_optimizers, settings.clip)
            terms |= {f"adversary_{name}": value for name, value in found.items()}
    return terms


class _Loss(Protocol):
    def __call__(self, step: int, shard: Shard) -> Mapping[str, Tensor]: ...


def _gradients(loop: LoopSettings, loss: _Loss, step: int, shards: list[Shard]) -> dict[str, Tensor]:
    """Mean terms over this process's ``shards``; their gradients are left in the parameters."""
    totals: dict[str, Tensor] = {}
    for shard in shards:
        with torch.autocast(loop.device.split(":")[0], torch.bfloat16, enabled=loop.bfloat16):
            terms = dict(loss(step, shard))
        if not terms:
            return {}
        (terms["loss"] / len(shards)).backward()  # type: ignore[no-untyped-call]
        for name, value in terms.items():
            part = value.detach() / len(shards)
            totals[name] = totals[name] + part if name in totals else part
    return totals


def _keep(run: Run, stage: Stage, trained: _Trained, watch: Watch, done: int) -> None:
    """Save and draw where it is time to, and at the end of the run."""
    if done % run.loop.save_every == 0 or done == run.steps:
        _save(run, stage, trained, watch)
    if done % run.loop.sample_every == 0 or done == run.steps:
        _draw(run, stage, trained, watch, done)


def _save(run: Run, stage: Stage, trained: _Trained, watch: Watch) -> None:
    """Checkpoints first, the state last: it says that they were written, and steps after it are repeated."""
    stage.write(run.checkpoint, trained.ema)
    if watch.improved():
        with atomic_folder(run.folder / BEST, force=True, marker=CONFIG) as target:
            shutil.copytree(run.checkpoint, target, dirs_exist_ok=True)
    standing = replace(watch.standing, complete=watch.standing.step >= run.steps)
    save_state(run.folder, standing, run.identity, trained.parts)


def _draw(run: Run, stage: Stage, trained: _Trained, watch: Watch, done: int) -> None:
    sheet = stage.sheet(trained.ema)
    save_sheet(run.folder / "samples" / f"{done:07d}.png", sheet)
    watch.show(sheet, done)


def _sweep(run: Run) -> None:
    """Remove what a killed save has left half written."""
    for half in run.folder.glob(f".{STATE}.*"):
        half.unlink()
    for folder in (run.checkpoint, run.folder / BEST):
        for half in folder.parent.glob(f".{folder.name}.*") if folder.is_dir() else ():
            shutil.rmtree(half)
