"""Step distillation: a student samples in a few steps what its teacher samples in many guided ones (SPEC section 5).

A segment is the part of the time axis that one step of the student covers. ``v_s(z_k, t_k, text, plan)`` learns
``(z_k - z_k+1) / (t_k - t_k+1)``, the velocity that takes the teacher's latent from the start of a segment to its end: exact,
cached, and what an Euler step of the runtime needs. The plans are the student's own, passed from segment to segment without
gradient.

Letters: B trajectories, G segments, C h w latent channels, height and width, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from microforge.checkpoint import Checkpoint, write_checkpoint
from microforge.data.edit_examples import SOURCE_TASKS, TripleSource
from microforge.pipeline import MicroForgePipeline
from microforge.planner import plan_similarity
from microforge.sampling import MEAN_LOSS_WEIGHT, loss_weight, uniform_grid
from microforge.spec import ModelSpec
from microforge.streams import FixedSeed, StepStream
from microforge.text_encoder import PAD_ID
from microforge.training.distillation.int8_grid import on_int8_grid
from microforge.training.distillation.segments import (
    DistillRows,
    EncodedText,
    StepInputs,
    Student,
    repeated,
    segment_samples,
)
from microforge.training.distillation.settings import DistillSettings
from microforge.training.distillation.teacher import FrozenTeacher, task_shares
from microforge.training.distillation.trajectory_cache import TrajectoryBatch, TrajectoryDataset
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.distributed import Processes
from microforge.training.engine.loop import StageDefaults
from microforge.training.engine.plots import grid
from microforge.training.engine.state import step_rng
from microforge.training.loop_options import LoopSettings
from microforge.training.stages.example_images import generate_examples
from microforge.training.stages.flow_network import FlowNetwork, without_padding

#: Prompts, and examples of each task with a source, on a sample sheet.
SHEET_PROMPTS, SHEET_EXAMPLES = 6, 2


@dataclass(frozen=True)
class SheetInputs:
    """What sample sheets show: prompts, and examples with a source."""

    prompts: tuple[str, ...]
    triples: TripleSource


#: Loads or generates the trajectories, by task.
TrajectoryProvider = Callable[[Console, Processes], Mapping[str, TrajectoryDataset]]


def student_spec(teacher: ModelSpec, steps: int, size: tuple[int, int], tasks: tuple[str, ...]) -> ModelSpec:
    """The teacher's configuration as a guidance-distilled one with ``steps`` sampling steps; scales stay as a record."""
    sampler = replace(teacher.sampler, timesteps=uniform_grid(steps), guidance_distilled=True)
    return replace(teacher, sampler=sampler, native_size=size, tasks=tasks)


class DistillStage(StageDefaults):
    """Segment-wise consistency from cached trajectories, or segment consistency distillation with ``skip``."""

    def __init__(
        self,
        teacher: FrozenTeacher,
        tasks: tuple[str, ...],
        settings: DistillSettings,
        loop: LoopSettings,
        size: tuple[int, int],
        sheet: SheetInputs,
        provide: TrajectoryProvider,
        init: Checkpoint | None = None,
    ) -> None:
        """Build the student.

        Args:
            teacher: The teacher.
            tasks: The tasks that are learned.
            settings: Settings of the run.
            loop: How the run is executed.
            size: Height and width of the images in pixels.
            sheet: What sample sheets show.
            provide: Called by ``prepare`` for the trajectories.
            init: Starting weights; the teacher's by default.
        """
        self.teacher, self.settings, self.loop, self.size = teacher, settings, loop, size
        self.sheet_inputs = replace(sheet, prompts=sheet.prompts[:SHEET_PROMPTS])
        self.provide = provide
        self.trajectories: Mapping[str, TrajectoryDataset] = {}
        self.spec = student_spec(teacher.spec, settings.student_steps, size, tasks)
        self.shares = task_shares(tasks, settings.generate_share)
        self.samples_per_step = settings.batch * settings.student_steps
        self._teacher_images: dict[str, Tensor] = {}
        torch.manual_seed(loop.seed)
        self.student = Student(teacher.spec, settings.skip is not None)
        self.student.load(teacher.checkpoint if init is None else init)
        if self.student.target is not None:
            self.student.target.load_state_dict(self.student.denoiser.state_dict())
        self.student.to(loop.device)
        self.student.checkpoint_blocks(loop.checkpoint_blocks)
        if loop.compile:
            self.student.compile_denoiser()

    @property
    def network(self) -> nn.Module:
        """The student."""
        return self.student

    def prepare(self, folder: Path, console: Console, processes: Processes) -> None:
        """Load or generate the trajectories."""
        self.trajectories = self.provide(console, processes)

    def loss(self, step: int, shard: BatchShard = WHOLE) -> Mapping[str, Tensor]:
        """``segment`` (pseudo-Huber) and ``flow`` over all tasks, and ``segment_TASK``.

        Every term is divided by the expected number of its samples, so that the mean over the pieces of a batch is the term
        of the whole batch; the term of a task is 0 at a step without one of its rows.
        """
        if step > 0 and shard.index % self.loop.accumulate == 0:
            self.student.update_target(self.settings.target_ema)
        tasks = (_term(task) for task in self.shares if len(self.shares) > 1)
        names = ("loss", "segment", "flow", "plan_similarity", *tasks)
        terms = dict.fromkeys(names, torch.zeros((), device=self.loop.device))
        for rows in self.make_rows(step, shard):
            for name, value in self._terms(rows, step, shard).items():
                terms[name] = terms[name] + value
        settings = self.settings
        fraction = settings.flow_fraction
        total = (1.0 - fraction) * terms["segment"] + fraction * terms["flow"]
        return {**terms, "loss": total + settings.diversity * terms["plan_similarity"]}

    def _terms(self, rows: DistillRows, step: int, shard: BatchShard) -> dict[str, Tensor]:
        """One forward pass and its part of every term."""
        settings, segments = self.settings, self.settings.student_steps
        text = self._encode(rows.trajectories.ids)
        inputs = StepInputs(self.student, settings, self.loop.seed, step)
        samples = segment_samples(inputs, rows, text)
        wide = tuple(value.repeat_interleave(segments, 0) for value in text)
        source = repeated(rows.trajectories.source, segments)
        velocity, plan = self.student.denoiser(
            samples.z, samples.t, *wide, samples.previous, samples.has_plan, source
        )
        squared = (velocity.float() - samples.target).square().mean((1, 2, 3))  # (B G,)
        huber = settings.huber
        segment = (
            ((samples.length.square() * squared + huber**2).sqrt() - huber).reshape(-1, segments).mean(1)
        )
        flow = (loss_weight(samples.t) * squared / MEAN_LOSS_WEIGHT).reshape(-1, segments).mean(1)
        batch, with_flow = settings.batch / shard.count, rows.with_flow.float()  # (B,)
        expected = batch * (1.0 - settings.flow_fraction)
        terms = {
            "segment": (segment * (1.0 - with_flow)).sum() / expected,
            "flow": (flow * with_flow).sum() / max(batch * settings.flow_fraction, 1e-9),
            "plan_similarity": plan_similarity(plan) * len(rows.tasks) / batch,
        }
        for task in dict.fromkeys(rows.tasks) if len(self.shares) > 1 else ():
            of_task = torch.tensor([name == task for name in rows.tasks], device=with_flow.device)
            terms[_term(task)] = segment[of_task & ~rows.with_flow].sum() / (expected * self.shares[task])
        return terms

    def _encode(self, ids: Tensor) -> EncodedText:
        ids = without_padding(ids)
        mask = (ids != PAD_ID).float()
        text, pooled = self.student.text_encoder.encode(ids, mask)
        return text, mask, pooled

    def make_rows(self, step: int, shard: BatchShard) -> list[DistillRows]:
        """The rows ``shard`` of the batch of ``step``, those of one layout together.

        A piece takes every ``count``-th row, so that all pieces have some of each task.
        """
        batch, device = self.settings.batch, self.loop.device
        shard.rows(batch)  # refuses a batch that does not divide
        rng = step_rng(self.loop.seed, StepStream.DISTILLATION_ROWS + step)
        edges = np.cumsum(list(self.shares.values()))[:-1]
        indices = np.searchsorted(edges, (np.arange(batch) + rng.random()) / batch, side="right")
        tasks = [tuple(self.shares)[index] for index in indices]
        numbers = rng.random(batch)
        with_flow = np.zeros(batch, dtype=bool)
        with_flow[rng.permutation(batch)[: round(self.settings.flow_fraction * batch)]] = True
        layouts = []
        for layout in (("generate",), SOURCE_TASKS):
            places = [row for row in range(shard.index, batch, shard.count) if tasks[row] in layout]
            if not places:
                continue
            parts = [
                self.trajectories[task].take(
                    [int(numbers[row] * self.trajectories[task].rows) for row in places if tasks[row] == task]
                )
                for task in dict.fromkeys(tasks[row] for row in places)
            ]
            layouts.append(
                DistillRows(
                    [tasks[row] for row in places],
                    torch.tensor(places, device=device),
                    concatenated(parts, device),
                    torch.from_numpy(with_flow[places]).to(device),
                )
            )
        return layouts

    def pipeline(self, ema: nn.Module) -> MicroForgePipeline:
        """The reference pipeline of the averaged weights, with the student's time grid."""
        assert isinstance(ema, FlowNetwork)
        return pipeline_of(ema, self.teacher, self.spec)

    def sheet(self, ema: nn.Module) -> Tensor:
        """Rows of the teacher's images above the student's, with the same prompts and noise; then those of edits."""
        if not self._teacher_images:
            teacher = self.teacher
            self._teacher_images = self._images(pipeline_of(teacher.network, teacher, teacher.spec))
        student_images = self._images(self.pipeline(ema))
        rows = []
        for task, images in self._teacher_images.items():
            blank = images.new_ones(SHEET_PROMPTS - len(images), *images.shape[1:])
            rows += [images, blank, student_images[task], blank]
        return grid(torch.cat(rows), SHEET_PROMPTS)

    def _images(self, pipeline: MicroForgePipeline) -> dict[str, Tensor]:
        images, triples = {}, self.sheet_inputs.triples
        numbers, seed = range(SHEET_EXAMPLES), FixedSeed.UNSEEN_SCENES
        for task in self.shares:
            if task == "generate":
                images[task] = pipeline.text2img(list(self.sheet_inputs.prompts), *self.size)
                continue
            examples = triples.triples(task, seed, 0, SHEET_EXAMPLES, numbers, self.size, self.loop.device)
            images[task] = torch.cat([examples.sources, generate_examples(pipeline, task, examples)])
        return images

    def write(self, folder: Path, ema: nn.Module) -> None:
        """Write the student as a checkpoint; config.json holds its time grid and that guidance is distilled."""
        write_student(folder, self.pipeline(ema), self.teacher, self.settings.int8_grid)


def pipeline_of(network: FlowNetwork, teacher: FrozenTeacher, spec: ModelSpec) -> MicroForgePipeline:
    """The pipeline of ``network`` with the VAE and tokenizer of its teacher."""
    denoiser = network.denoiser
    return MicroForgePipeline(
        teacher.vae, denoiser.backbone, network.text_encoder, denoiser.planner, teacher.tokenizer, spec
    )


def write_student(folder: Path, student: MicroForgePipeline, teacher: FrozenTeacher, int8_grid: bool) -> None:
    """Write a student of ``teacher`` as a checkpoint; ``int8_grid``: with weights that INT8 represents without loss."""
    modules = student.modules_by_name()
    if int8_grid:  # the VAE stays that of the teacher
        modules = {name: part if name == "vae" else on_int8_grid(part) for name, part in modules.items()}
    stages = (*teacher.checkpoint.stages, "distill")
    write_checkpoint(folder, student.spec, modules, teacher.tokenizer, stages)


def concatenated(parts: list[TrajectoryBatch], device: str) -> TrajectoryBatch:
    """Trajectories of several tasks, all with a source or all without, as one batch on ``device``."""
    sources = [part.source for part in parts if part.source is not None]
    points, truth, ids = (
        torch.cat([getattr(part, name) for part in parts]).to(device) for name in ("points", "truth", "ids")
    )
    return TrajectoryBatch(points, truth, ids, torch.cat(sources).to(device) if sources else None)


def _term(task: str) -> str:
    """The name of a task's loss term."""
    return f"segment_{task.replace('-', '_')}"
