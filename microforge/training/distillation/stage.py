"""Stage 6: a student that draws in a few steps what its teacher draws in thirty-two, guidance folded in (SPEC 5).

A window is a step of the student. ``v_s(z_k, t_k, text, plan)`` learns ``(z_k - z_k+1) / (t_k - t_k+1)``, the velocity
that takes the teacher's latent at the window's start to the one at its end: exact, cached, and what an Euler step of
the runtime needs. The plan is the student's own, handed on from window to window without gradient.

Letters: B drawings, W windows, C h w latent channels, height and width, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
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
from microforge.training.distillation.samples import Rows, Student, Text, repeated, window_samples
from microforge.training.distillation.settings import DistillSettings
from microforge.training.distillation.teacher import Teacher, task_shares
from microforge.training.distillation.trajectory_cache import Drawings
from microforge.training.distillation.trajectory_cache import Shard as Drawn
from microforge.training.engine.batch_shard import WHOLE, Shard
from microforge.training.engine.loop import WithoutAdversary
from microforge.training.engine.plots import grid
from microforge.training.engine.state import step_rng
from microforge.training.settings import LoopSettings
from microforge.training.stages.edit import drawn as drawn_from
from microforge.training.stages.flow import FlowNetwork, without_padding

#: Prompts, and examples of each task with a source, on a sample sheet.
SHEET_PROMPTS, SHEET_EACH = 6, 2


def student_spec(teacher: ModelSpec, steps: int, size: tuple[int, int], tasks: tuple[str, ...]) -> ModelSpec:
    """The teacher's spec with the student's grid and guidance in the weights; the scales stay as a record."""
    sampler = replace(teacher.sampler, timesteps=uniform_grid(steps), guidance_distilled=True)
    return replace(teacher, sampler=sampler, native_size=size, tasks=tasks)


class DistillStage(WithoutAdversary):
    """Windowed consistency from cached drawings, or segment-CD with ``skip``."""

    def __init__(
        self, teacher: Teacher, drawings: Mapping[str, Drawings], settings: DistillSettings, loop: LoopSettings,
        size: tuple[int, int], prompts: tuple[str, ...], triples: TripleSource, start: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        """Build the student.

        Args:
            drawings: of the tasks that are learned. prompts, triples: of the sample sheets.
            start: the weights to start from; the teacher's by default.
        """
        self.teacher, self.drawings, self.settings, self.loop = teacher, drawings, settings, loop
        self.size, self.prompts, self.triples = size, prompts[:SHEET_PROMPTS], triples
        self.spec = student_spec(teacher.spec, settings.steps, size, tuple(drawings))
        self.shares = task_shares(tuple(drawings), settings.generate)
        self.samples_per_step = settings.batch * settings.steps
        self._teacher_images: dict[str, Tensor] = {}
        torch.manual_seed(loop.seed)
        self.student = Student(teacher.spec, settings.skip is not None)
        self.student.load(teacher.checkpoint if start is None else start)
        if self.student.slow is not None:
            self.student.slow.load_state_dict(self.student.denoiser.state_dict())
        self.student.to(loop.device)
        self.student.checkpoint_blocks(loop.checkpoint_blocks)
        if loop.compile:
            self.student.compile_denoiser()

    @property
    def network(self) -> nn.Module:
        return self.student

    def loss(self, step: int, shard: Shard = WHOLE) -> Mapping[str, Tensor]:
        """``window`` (pseudo-Huber) and ``flow`` over all tasks, and ``window_TASK``.

        Every term is divided by the samples it is expected to have, so that the mean over the pieces of a batch is
        the term of the whole batch; at a step without one of a task's rows its own is 0.
        """
        if step > 0 and shard.index % self.loop.accumulate == 0:
            self.student.follow(self.settings.target_ema)
        tasks = (f"window_{_plain(task)}" for task in self.shares if len(self.shares) > 1)
        names = ("loss", "window", "flow", "plan_similarity", *tasks)
        terms = dict.fromkeys(names, torch.zeros((), device=self.loop.device))
        for rows in self.draw(step, shard):
            for name, value in self._terms(rows, step, shard).items():
                terms[name] = terms[name] + value
        settings = self.settings
        total = (1.0 - settings.anchor) * terms["window"] + settings.anchor * terms["flow"]
        return {**terms, "loss": total + settings.diversity * terms["plan_similarity"]}

    def _terms(self, rows: Rows, step: int, shard: Shard) -> dict[str, Tensor]:
        """One forward pass and its share of every term."""
        settings, windows = self.settings, self.settings.steps
        text = self._encode(rows.drawn.ids)
        samples = window_samples(self.student, rows, text, settings, step, self.loop.seed)
        wide = tuple(value.repeat_interleave(windows, 0) for value in text)
        source = repeated(rows.drawn.source, windows)
        velocity, plan = self.student.denoiser(
            samples.z, samples.t, *wide, samples.previous, samples.has_plan, source
        )
        squared = (velocity.float() - samples.target).square().mean((1, 2, 3))  # (B W,)
        huber = settings.huber
        window = ((samples.reach.square() * squared + huber**2).sqrt() - huber).reshape(-1, windows).mean(1)
        flow = (loss_weight(samples.t) * squared / MEAN_LOSS_WEIGHT).reshape(-1, windows).mean(1)
        batch, keeps = settings.batch / shard.count, rows.anchor.float()  # (B,)
        ours = batch * (1.0 - settings.anchor)
        found = {
            "window": (window * (1.0 - keeps)).sum() / ours,
            "flow": (flow * keeps).sum() / max(batch * settings.anchor, 1e-9),
            "plan_similarity": plan_similarity(plan) * len(rows.tasks) / batch,
        }
        for task in dict.fromkeys(rows.tasks) if len(self.shares) > 1 else ():
            own = torch.tensor([name == task for name in rows.tasks], device=keeps.device) & ~rows.anchor
            found[f"window_{_plain(task)}"] = window[own].sum() / (ours * self.shares[task])
        return found

    def _encode(self, ids: Tensor) -> Text:
        ids = without_padding(ids)
        mask = (ids != PAD_ID).float()
        text, pooled = self.student.text_encoder.encode(ids, mask)
        return text, mask, pooled

    def draw(self, step: int, shard: Shard) -> list[Rows]:
        """The rows ``shard`` of the batch of ``step``, those of one layout together.

        A piece takes every ``count``-th row, so that all have some of each task.
        """
        batch, device = self.settings.batch, self.loop.device
        shard.rows(batch)  # refuses a batch that does not divide
        rng = step_rng(self.loop.seed, StepStream.DISTILLATION_ROWS + step)
        edges = np.cumsum(list(self.shares.values()))[:-1]
        places = np.searchsorted(edges, (np.arange(batch) + rng.random()) / batch, side="right")
        tasks = [tuple(self.shares)[place] for place in places]
        numbers = rng.random(batch)
        anchors = np.zeros(batch, dtype=bool)
        anchors[rng.permutation(batch)[: round(self.settings.anchor * batch)]] = True
        found = []
        for group in (("generate",), SOURCE_TASKS):
            mine = [row for row in range(shard.index, batch, shard.count) if tasks[row] in group]
            if not mine:
                continue
            parts = [
                self.drawings[task].take(
                    [int(numbers[row] * self.drawings[task].rows) for row in mine if tasks[row] == task]
                )
                for task in dict.fromkeys(tasks[row] for row in mine)
            ]
            places_here = torch.tensor(mine, device=device)
            anchor = torch.from_numpy(anchors[mine]).to(device)
            found.append(Rows([tasks[row] for row in mine], places_here, joined(parts, device), anchor))
        return found

    def pipeline(self, ema: nn.Module) -> MicroForgePipeline:
        """The reference pipeline around the EMA weights, with the student's grid."""
        assert isinstance(ema, FlowNetwork)
        return with_vae(ema, self.teacher, self.spec)

    def sheet(self, ema: nn.Module) -> Tensor:
        """Rows of the teacher's images above the student's, same prompts and noise; then those of edits."""
        if not self._teacher_images:
            self._teacher_images = self._images(
                with_vae(self.teacher.network, self.teacher, self.teacher.spec)
            )
        student = self._images(self.pipeline(ema))
        images = []
        for task, theirs in self._teacher_images.items():
            blank = theirs.new_ones(SHEET_PROMPTS - len(theirs), *theirs.shape[1:])
            images += [theirs, blank, student[task], blank]
        return grid(torch.cat(images), SHEET_PROMPTS)

    def _images(self, pipeline: MicroForgePipeline) -> dict[str, Tensor]:
        images = {}
        for task in self.shares:
            if task == "generate":
                images[task] = pipeline.text2img(list(self.prompts), *self.size)
                continue
            numbers = range(SHEET_EACH)
            found = self.triples.triples(
                task, FixedSeed.UNSEEN_SCENES, 0, SHEET_EACH, numbers, self.size, self.loop.device
            )
            images[task] = torch.cat([found.sources, drawn_from(pipeline, task, found)])
        return images

    def write(self, folder: Path, ema: nn.Module) -> None:
        """The student as a checkpoint of its own: its grid and folded guidance are in config.json."""
        write_student(folder, self.pipeline(ema), self.teacher, self.settings.int8_grid)


def with_vae(network: FlowNetwork, teacher: Teacher, spec: ModelSpec) -> MicroForgePipeline:
    """``network`` and the VAE and tokenizer of its teacher."""
    denoiser = network.denoiser
    return MicroForgePipeline(
        teacher.vae, denoiser.backbone, network.text_encoder, denoiser.planner, teacher.tokenizer, spec
    )


def write_student(folder: Path, student: MicroForgePipeline, teacher: Teacher, int8_grid: bool) -> None:
    """Write a student of ``teacher`` as a checkpoint; ``int8_grid``: its weights as INT8 stores them."""
    modules = student.modules_by_name()
    if int8_grid:  # the VAE is the teacher's, to the bit
        modules = {name: part if name == "vae" else on_int8_grid(part) for name, part in modules.items()}
    stages = (*teacher.checkpoint.stages, "distill")
    write_checkpoint(folder, student.spec, modules, teacher.tokenizer, stages)


def joined(parts: list[Drawn], device: str) -> Drawn:
    """Drawings of several tasks, all with a source or all without, as one batch on ``device``."""
    sources = [part.source for part in parts if part.source is not None]
    points, truth, ids = (
        torch.cat([getattr(part, name) for part in parts]).to(device) for name in ("points", "truth", "ids")
    )
    return Drawn(points, truth, ids, torch.cat(sources).to(device) if sources else None)


def _plain(task: str) -> str:
    return task.replace("-", "_")
