"""The training loop of every stage: optimizer steps, EMA, atomic state, last and best checkpoint, sample sheets."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from torch import Tensor, nn

from microforge.checkpoint import CONFIG
from microforge.data.edit_examples import TripleSource
from microforge.data.image_source import ImageSource
from microforge.io.atomic import atomic_folder
from microforge.io.leftovers import remove_leftovers_in
from microforge.training.engine.batch_shard import BatchShard
from microforge.training.engine.distributed import ALONE, Processes
from microforge.training.engine.monitor import LOG, Monitor, progress_line
from microforge.training.engine.optimizers import make_optimizers, set_rate, take_step, update_ema
from microforge.training.engine.plots import plot_losses, save_sheet
from microforge.training.engine.state import (
    DISCRIMINATOR,
    STATE,
    RunIdentity,
    RunProgress,
    StateParts,
    load_state,
    save_state,
    steps_done,
)
from microforge.training.engine.time_budget import TimeBudget
from microforge.training.loop_options import LoopSettings
from microforge.training.settings import OptimizerSettings, learning_rate

#: Folder of the checkpoint with the lowest smoothed score.
BEST = "best"


class TrainingStage(Protocol):
    """What one stage trains, and how its loss, samples and checkpoint are computed.

    A step draws the *whole* batch, of all processes and micro-batches, from generators seeded by the step's number, and
    works on the rows of ``shard``. Its terms are means over those rows, so that their mean over the shards is the term of
    the whole batch.
    """

    samples_per_step: int  # of all processes

    @property
    def network(self) -> nn.Module:
        """The module that is trained."""

    @property
    def discriminator(self) -> nn.Module | None:
        """A second module with its own optimizer, or None; the same one during the whole run."""

    @property
    def discriminator_optimizer(self) -> OptimizerSettings:
        """Optimizer settings of the discriminator."""

    @property
    def data_sources(self) -> tuple[ImageSource | TripleSource, ...]:
        """The sources whose skipped files are reported at the end."""

    def prepare(self, folder: Path, console: Console, processes: Processes) -> None:
        """Compute what the stage needs before its first step, in all processes together; results are cached in ``folder``."""

    def loss(self, step: int, shard: BatchShard) -> Mapping[str, Tensor]:
        """Loss terms of step ``step``: ``loss`` is minimised, all are logged.

        Optional ``score`` (lower is better) selects the best checkpoint instead of ``loss``.
        """

    def discriminator_loss(self, step: int, shard: BatchShard) -> Mapping[str, Tensor]:
        """Loss terms of the discriminator; {} when it is not updated at this step.

        Called once for every shard that ``loss`` was called with, after the network's update of the same step.
        """

    def sheet(self, ema: nn.Module) -> Tensor:
        """A grid of sample images (3, H, W) in [0, 1]."""

    def write(self, folder: Path, ema: nn.Module) -> None:
        """Write the checkpoint of the averaged weights ``ema``."""


class StageDefaults:
    """Defaults of a stage: no discriminator, and nothing to prepare."""

    discriminator: nn.Module | None = None
    discriminator_optimizer = OptimizerSettings(1e-4)  # unused
    data_sources: tuple[ImageSource | TripleSource, ...] = ()

    def prepare(self, folder: Path, console: Console, processes: Processes) -> None:
        """Nothing to prepare."""

    def discriminator_loss(self, step: int, shard: BatchShard) -> Mapping[str, Tensor]:
        """No terms, since there is no discriminator."""
        return {}


@dataclass(frozen=True)
class TrainingRun:
    """One call of the training loop: where it writes, how long it trains, and what identifies it."""

    folder: Path  # of state, log, samples and best checkpoint
    checkpoint: Path  # folder of the last checkpoint
    identity: RunIdentity
    steps: int
    optimizer: OptimizerSettings
    loop: LoopSettings
    setting: str = ""  # scores are comparable within it only


@dataclass(frozen=True)
class _Trained:
    network: nn.Module
    ema: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    discriminator: nn.Module | None
    discriminator_optimizers: dict[str, torch.optim.Optimizer]

    @property
    def parts(self) -> StateParts:
        modules = {"network": self.network, "ema": self.ema}
        if self.discriminator is not None:
            modules[DISCRIMINATOR] = self.discriminator
        others = {f"{DISCRIMINATOR}_{name}": value for name, value in self.discriminator_optimizers.items()}
        return StateParts(modules, self.optimizers | others)


def train(
    run: TrainingRun, stage: TrainingStage, console: Console, processes: Processes = ALONE
) -> float | None:
    """Train up to ``run.steps``; a state in the folder is resumed.

    Returns:
        The last smoothed score, or None when no step was left to train.

    Raises:
        DivergenceError: when the loss is not finite or leaves its range; the state on disk stays valid.
        CheckpointError: when the state is damaged or belongs to another run.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    if processes.is_main:
        _remove_partial_files(run)
    trained = _assemble(run, stage)
    progress = _resume(run, trained, console, processes)
    start = progress.step
    monitor = Monitor(run.folder, run.loop, run.steps, stage.samples_per_step, progress, processes)
    with _saying_what_is_kept(run, console, processes), progress_line(console, processes.is_main) as bar:
        task = bar.add_task(run.identity.stage, total=run.steps, completed=start, note="")
        minutes = run.loop.minutes
        budget = None if minutes is None else TimeBudget(minutes, run.optimizer.decay_fraction, start)
        step = start
        while step < run.steps:
            terms = _step(run, stage, trained, step, processes)
            update_ema(trained.ema, trained.network, run.optimizer.ema, step)
            step += 1
            if budget is not None:
                run = replace(run, steps=processes.agree(budget.steps(step, run.steps)))
                monitor.steps = run.steps
            bar.update(task, completed=step, total=run.steps, note=monitor.add(step - 1, terms))
            if processes.is_main:
                _save_and_sample(run, stage, trained, monitor, step)
    if processes.is_main:
        if start >= run.steps:  # no step was left, but the VAE beside the weights may have changed
            stage.write(run.checkpoint, trained.ema)
            _write_sheet(run, stage, trained, monitor, start)
        if (run.folder / LOG).is_file():
            plot_losses(run.folder / LOG, run.folder / "loss.png")
    monitor.close()
    processes.wait()
    return None if start >= run.steps else monitor.progress.smoothed


@contextlib.contextmanager
def _saying_what_is_kept(run: TrainingRun, console: Console, processes: Processes) -> Iterator[None]:
    """Say on Ctrl-C or SIGTERM which state is kept. None is saved then: the signal may have come in the midst of a step."""
    try:
        yield
    except Exception:
        raise
    except BaseException:
        if processes.is_main:
            step = steps_done(run.folder)
            kept = f"the state of step {step} is kept in {run.folder}: --resume continues from it"
            none = "it was too early for a saved state: start it again"
            console.print(f"{run.identity.stage}: {kept if step else none}", highlight=False, soft_wrap=True)
        raise


def _assemble(run: TrainingRun, stage: TrainingStage) -> _Trained:
    network, discriminator = stage.network, stage.discriminator
    ema = copy.deepcopy(network).requires_grad_(False).eval()
    others = {} if discriminator is None else make_optimizers(discriminator, stage.discriminator_optimizer)
    return _Trained(network, ema, make_optimizers(network, run.optimizer), discriminator, others)


def _resume(run: TrainingRun, trained: _Trained, console: Console, processes: Processes) -> RunProgress:
    """Load the state in the run's folder, if there is one; scores of another setting are discarded."""
    progress = RunProgress(setting=run.setting)
    if (run.folder / STATE).is_file():
        stored = load_state(run.folder, run.identity, trained.parts)
        if processes.is_main:
            console.print(f"resuming {run.identity.stage} at step {stored.step} of {run.steps}")
        same = stored.setting == run.setting
        progress = stored if same else replace(progress, step=stored.step)
    processes.check_equal(trained.network, progress.step)
    return progress


def _step(
    run: TrainingRun, stage: TrainingStage, trained: _Trained, step: int, processes: Processes
) -> Mapping[str, Tensor]:
    """Update the network, then the discriminator if the stage has terms for it."""
    shards = processes.shards(run.loop.accumulate)
    set_rate(trained.optimizers, learning_rate(run.optimizer, step, run.steps))
    terms = _backward(run.loop, stage.loss, step, shards)
    processes.average_gradients(trained.network)
    terms["grad_norm"] = take_step(trained.network, trained.optimizers, run.optimizer.clip)
    if trained.discriminator is not None:
        settings = stage.discriminator_optimizer
        judgement = _backward(run.loop, stage.discriminator_loss, step, shards)
        if judgement:
            set_rate(trained.discriminator_optimizers, learning_rate(settings, step, run.steps))
            processes.average_gradients(trained.discriminator)
            take_step(trained.discriminator, trained.discriminator_optimizers, settings.clip)
            terms |= {f"discriminator_{name}": value for name, value in judgement.items()}
    return terms


class _Loss(Protocol):
    def __call__(self, step: int, shard: BatchShard) -> Mapping[str, Tensor]: ...


def _backward(loop: LoopSettings, loss: _Loss, step: int, shards: list[BatchShard]) -> dict[str, Tensor]:
    """Mean terms over this process's ``shards``; accumulates their gradients in the parameters."""
    totals: dict[str, Tensor] = {}
    for shard in shards:
        with torch.autocast(loop.device_type, torch.bfloat16, enabled=loop.bfloat16):
            terms = dict(loss(step, shard))
        if not terms:
            return {}
        (terms["loss"] / len(shards)).backward()  # type: ignore[no-untyped-call]
        for name, value in terms.items():
            part = value.detach() / len(shards)
            totals[name] = totals[name] + part if name in totals else part
    return totals


def _save_and_sample(
    run: TrainingRun, stage: TrainingStage, trained: _Trained, monitor: Monitor, done: int
) -> None:
    """Save the state and write a sample sheet when they are due, and at the end of the run."""
    if done % run.loop.save_every == 0 or done == run.steps:
        _save(run, stage, trained, monitor)
    if done % run.loop.sample_every == 0 or done == run.steps:
        _write_sheet(run, stage, trained, monitor, done)


def _save(run: TrainingRun, stage: TrainingStage, trained: _Trained, monitor: Monitor) -> None:
    """Write the checkpoints first and the state last: it vouches for them, and later steps are repeated."""
    stage.write(run.checkpoint, trained.ema)
    if monitor.improved():
        with atomic_folder(run.folder / BEST, force=True, marker=CONFIG) as target:
            shutil.copytree(run.checkpoint, target, dirs_exist_ok=True)
    progress = replace(monitor.progress, complete=monitor.progress.step >= run.steps)
    save_state(run.folder, progress, run.identity, trained.parts)


def _write_sheet(
    run: TrainingRun, stage: TrainingStage, trained: _Trained, monitor: Monitor, done: int
) -> None:
    sheet = stage.sheet(trained.ema)
    save_sheet(run.folder / "samples" / f"{done:07d}.png", sheet)
    monitor.show(sheet, done)


def _remove_partial_files(run: TrainingRun) -> None:
    """Remove what a killed save has left behind; a checkpoint that it had taken away is put back."""
    for folder in (run.folder, run.checkpoint.parent, run.folder / "samples"):
        remove_leftovers_in(folder)
