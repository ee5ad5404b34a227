"""A teacher for step distillation: what it knows, and its guided drawings, drawn once into a cache.

Letters: B drawings, L text tokens, C h w latent channels, height and width.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from torch import Tensor

from microforge.checkpoint import Checkpoint
from microforge.data.edit_examples import SOURCE_TASKS, Triples, TripleSource
from microforge.data.image_source import ImageSource
from microforge.data.order import PART
from microforge.data.world.image_source import SCENES
from microforge.errors import CheckpointError, DataError
from microforge.latent_blending import after_step, latent_mask
from microforge.sampling import AfterStep, batch_time, interpolate, uniform_grid
from microforge.spec import TASKS, to_dict
from microforge.streams import STREAM_LENGTH, TensorStream
from microforge.tokenizer import PromptTokenizer
from microforge.training.caches.encoded_triples import words_of
from microforge.training.distillation.rollout import Prompts, guided_points
from microforge.training.distillation.settings import TEACHER_ORDER, TEACHER_STEPS
from microforge.training.distillation.trajectory_cache import (
    CHUNK,
    CacheIdentity,
    Drawings,
    Shard,
    open_cache,
    shard_counts,
    shard_fits,
    shard_path,
    sweep,
    write_shard,
)
from microforge.training.engine.distributed import ALONE, Processes
from microforge.training.engine.state import step_generator
from microforge.training.stages.flow import FlowNetwork
from microforge.vae import MicroForgeVAE

#: The stage-5 mix (SPEC section 6), of which a student learns what its teacher knows.
SHARES: Mapping[str, float] = {"generate": 0.40, "edit": 0.35, "inpaint": 0.15, "super-resolve": 0.10}


def known_tasks(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The tasks that a checkpoint says it knows, or was trained in."""
    return TASKS if "edit" in checkpoint.stages else checkpoint.spec.tasks


def task_shares(tasks: Sequence[str], generate: float | None = None) -> dict[str, float]:
    """The share of each of ``tasks`` in a batch; they sum to 1.

    Args:
        generate: the share of plain generation where there are other tasks, which keep their proportions.
    """
    total = sum(SHARES[task] for task in tasks)
    shares = {task: SHARES[task] / total for task in tasks}
    if generate is None or len(tasks) == 1:
        return shares
    scale = (1.0 - generate) / (1.0 - shares["generate"])
    return {task: generate if task == "generate" else share * scale for task, share in shares.items()}


def rows_of(drawings: int, tasks: Sequence[str], generate: float | None = None) -> dict[str, int]:
    """How many of ``drawings`` each task has, at least one; ``generate`` as in ``task_shares``."""
    return {task: max(1, round(share * drawings)) for task, share in task_shares(tasks, generate).items()}


def teacher_id(checkpoint: Checkpoint) -> str:
    """Identifies a teacher: its weights and its configuration."""
    text = checkpoint.sha256 + repr(to_dict(checkpoint.spec))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class DrawingPlan:
    """What the cache is to hold: rows per task at one size, and the intervals that training needs or keeps."""

    rows: Mapping[str, int]
    size: tuple[int, int]
    intervals: int  # needed
    kept: int  # of new shards
    seed: int
    bfloat16: bool
    #: Tasks whose true results stand in the place of the teacher's drawings.
    true_targets: tuple[str, ...] = ()


class Teacher:
    """The networks of who draws, a teacher or a student of before, on one device, without gradients."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        """Load a whole checkpoint.

        Raises:
            CheckpointError: when it lacks a part or its tokenizer.
        """
        if checkpoint.tokenizer is None:
            raise CheckpointError("the teacher has no tokenizer.json, so it cannot read prompts")
        self.checkpoint, self.spec, self.device = checkpoint, checkpoint.spec, device
        self.tokenizer = PromptTokenizer.load(checkpoint.tokenizer)
        self.network = FlowNetwork(self.spec).requires_grad_(False).eval()
        self.network.load(checkpoint)
        self.vae = MicroForgeVAE(self.spec.vae).requires_grad_(False).eval()
        checkpoint.load_into("vae", self.vae)
        self.network.to(device)
        self.vae.to(device)

    def identity(self, plan: DrawingPlan, data: str) -> CacheIdentity:
        """``data``: the fingerprint of images, captions and edits."""
        sampler = self.spec.sampler
        guidance = f"{sampler.text_guidance:g} {sampler.image_guidance:g}"
        if plan.true_targets:
            guidance += f" true {','.join(plan.true_targets)}"
        return CacheIdentity(
            teacher_id(self.checkpoint), guidance,
            f"{plan.size[0]}x{plan.size[1]}", hashlib.sha256(data.encode()).hexdigest()[:16], plan.seed,
            "bf16" if plan.bfloat16 else "fp32",
        )  # fmt: skip

    def ids(self, texts: Sequence[str | None], task: str) -> Tensor:
        """Token ids (B, L); a text of None is the empty one of its task."""
        length = self.spec.text_encoder.max_length
        return words_of(self.tokenizer, texts, task, length).to(self.device)

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) of images (B, 3, H, W), in float32."""
        return self.vae.normalize(self.vae.encode(images.to(self.device)).mean)

    def draw(self, examples: Triples, task: str, number: int, plan: DrawingPlan) -> Shard:
        """The shard ``number`` of ``task``: what the teacher makes of ``examples``."""
        truth = self.latents(examples.targets)
        source = None if task == "generate" else self.latents(examples.sources)
        stream = TensorStream.TRAJECTORY_NOISE + TASKS.index(task) * STREAM_LENGTH + number
        generator = step_generator(plan.seed, stream)
        noise = torch.randn(truth.shape, generator=generator).to(self.device)
        if source is not None and task in plan.true_targets:
            times = (batch_time(t, len(truth), truth.device) for t in uniform_grid(plan.kept))
            straight = torch.stack([interpolate(truth, noise, t) for t in times], 1)  # (B, P, C, h, w)
            return Shard(straight, truth, self.ids(examples.texts, task), source)
        prompts = Prompts(self.ids(examples.texts, task), self.ids([None], task), source)
        after = self._after_step(task, truth, source, noise, examples.masks)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=plan.bfloat16):
            points = self._points(prompts, noise, plan.kept, after)
        return Shard(points, truth, prompts.ids, source)

    def _points(self, prompts: Prompts, noise: Tensor, kept: int, after: AfterStep | None) -> Tensor:
        """(B, P, C, h, w): guided, with ``kept`` intervals; a student's are its own steps."""
        sampler = self.spec.sampler
        if sampler.guidance_distilled:
            return guided_points(self.network, prompts, noise, sampler.timesteps, 1, sampler, after)
        return guided_points(
            self.network, prompts, noise, uniform_grid(TEACHER_STEPS), TEACHER_STEPS // kept, sampler, after,
            TEACHER_ORDER,
        )  # fmt: skip

    def _after_step(
        self, task: str, truth: Tensor, source: Tensor | None, noise: Tensor, masks: Tensor | None
    ) -> AfterStep | None:
        """As ``MicroForgePipeline`` draws from a source: what is known, or unchanged, is the source's own."""
        if source is None:
            return None
        known, hole = source, None
        if (
            masks is not None
        ):  # what lies under the hole of ``source`` is not known; that of ``truth`` is not used
            known, hole = truth, latent_mask(masks.to(truth), self.vae.spec.downsample)
        return after_step(
            known, noise, hole, self.spec.sampler.preserve_distances if task == "edit" else None
        )


def build_cache(
    teacher: Teacher, source: ImageSource, triples: TripleSource, plan: DrawingPlan, folder: Path, data: str,
    console: Console, processes: Processes = ALONE, rebuild: bool = False,
    others: Mapping[str, Teacher] = types.MappingProxyType({}),
) -> dict[str, Drawings]:  # fmt: skip
    """The drawings that ``plan`` asks for, those that are missing drawn first; each process draws its part.

    Args:
        others: task -> who draws it in the teacher's place.
        data: the fingerprint of images, captions and edits.
        rebuild: draw again, instead of refusing, what was made with another teacher or other settings.

    Raises:
        CheckpointError: when ``folder`` holds drawings of another teacher or other settings.
        DataError: when there is not one image to draw captions from.
    """
    artists = {task: others.get(task, teacher) for task in plan.rows}
    identities = {task: artist.identity(plan, data) for task, artist in artists.items()}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    wanted = {task: range(len(shard_counts(count))) for task, count in plan.rows.items()}
    if processes.is_main:
        sweep(folder)
    missing = {
        task: {
            number
            for number in numbers
            if not _usable(shard_path(folder, task, number), identities[task], plan.intervals, rebuild)
        }
        for task, numbers in wanted.items()
    }
    with Progress(*columns, console=console, disable=not processes.is_main) as progress:
        for task, numbers in missing.items():
            mine = {number for number in numbers if number % processes.count == processes.rank}
            if not mine:
                continue
            bar = progress.add_task(f"drawing {task}", total=CHUNK * len(mine))
            for number, examples in _examples(teacher, source, triples, task, plan, mine):
                drawn = artists[task].draw(examples, task, number, plan)
                write_shard(shard_path(folder, task, number), drawn, identities[task])
                progress.advance(bar, CHUNK)
    processes.wait()
    return open_cache(folder, plan.rows, plan.intervals)


def _usable(path: Path, identity: CacheIdentity, intervals: int, rebuild: bool) -> bool:
    try:
        return shard_fits(path, identity, intervals)
    except CheckpointError:
        if not rebuild:
            raise
        return False


def _examples(
    teacher: Teacher, source: ImageSource, triples: TripleSource, task: str, plan: DrawingPlan, numbers: set[int]
) -> Iterator[tuple[int, Triples]]:  # fmt: skip
    """The examples of the shards ``numbers`` of ``task``, in order."""
    if task in SOURCE_TASKS:
        for number in sorted(numbers):
            rows = range(CHUNK)
            yield number, triples.triples(task, plan.seed, number, CHUNK, rows, plan.size, teacher.device)
        return
    for number, images, texts in _captioned(source, plan, min(numbers), max(numbers) + 1, teacher.device):
        if number in numbers:
            yield number, Triples(images, texts, images)


def _captioned(
    source: ImageSource, plan: DrawingPlan, first: int, end: int, device: str
) -> Iterator[tuple[int, Tensor, tuple[str, ...]]]:
    """Blocks of ``CHUNK`` images up to ``end``, numbered, each image with one of its captions.

    A small data set comes round again. Every part of the built-in world is full, so it starts with the part of block
    ``first``; of own images some turn out to be broken, so they are counted from the start.
    """
    images: list[Tensor] = []
    texts: list[str] = []
    skipped = first * CHUNK // PART if source.name == SCENES else 0
    made, turn = skipped * PART // CHUNK, 0
    while made < end:
        wanted = -(-end * CHUNK // PART) * PART  # whole parts: the same examples whatever the count
        here = source.plan(wanted, 1, plan.seed + turn)
        found = 0
        for part in range(skipped if turn == 0 else 0, here.parts):
            for batch, captions in source.examples(here, part, plan.size, device):
                images += list(batch)
                texts += [own[(turn + row) % len(own)] for row, own in enumerate(captions)]
                found += len(captions)
                while len(images) >= CHUNK and made < end:
                    yield made, torch.stack(images[:CHUNK]), tuple(texts[:CHUNK])
                    images, texts, made = images[CHUNK:], texts[CHUNK:], made + 1
                if made == end:
                    return
        if not found:
            raise DataError(f"not one image of {source.name} can be used")
        turn += 1
