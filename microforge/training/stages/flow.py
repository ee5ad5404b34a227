"""Stage 2: rectified flow on cached latents (SPEC section 4), planner and text encoder included."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from microforge.checkpoint import Checkpoint, write_checkpoint
from microforge.data.image_source import ImageSource
from microforge.data.world.image_source import SceneSource
from microforge.denoiser import Denoiser, build_backbone, build_planner
from microforge.errors import CheckpointError
from microforge.pipeline import MicroForgePipeline
from microforge.planner import plan_similarity
from microforge.sampling import interpolate, loss_weight, shifted_time, velocity_target
from microforge.spec import ModelSpec
from microforge.text_encoder import PAD_ID, SimpleTextEncoder
from microforge.tokenizer import PromptTokenizer
from microforge.training.caches.latents import load_or_build
from microforge.training.engine.batch_shard import WHOLE, Shard
from microforge.training.engine.loop import WithoutAdversary
from microforge.training.engine.plots import grid
from microforge.training.engine.prefetch import ahead_workers
from microforge.training.engine.state import step_generator, step_rng
from microforge.training.losses.terms import weighted_velocity
from microforge.training.settings import FlowSettings, LoopSettings
from microforge.vae import MicroForgeVAE

#: Prompts of a sample sheet, at seed 0.
SHEET_PROMPTS = 12
#: Captions are padded to multiples of this.
LENGTH_STEP = 8
#: And to multiples of this for a compiled network, which is compiled anew for every length.
COMPILED_LENGTH_STEP = 16
#: Bytes of latents that are kept on a GPU.
RESIDENT = 4 << 30


class FlowNetwork(nn.Module):
    """What the flow stage trains: text encoder and denoiser."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.text_encoder = SimpleTextEncoder.from_spec(spec.text_encoder)
        self.denoiser = Denoiser(build_backbone(spec), build_planner(spec))

    def load(self, checkpoint: Checkpoint) -> None:
        """Fill the network with a checkpoint's weights.

        Raises:
            CheckpointError: when it lacks them or they do not fit.
        """
        checkpoint.load_into("text_encoder", self.text_encoder)
        checkpoint.load_into("backbone", self.denoiser.backbone)
        checkpoint.load_into("planner", self.denoiser.planner)

    def checkpoint_blocks(self, wanted: bool) -> None:
        """Run blocks again in the backward pass instead of storing what is inside them."""
        self.denoiser.backbone.checkpoint_blocks = self.denoiser.planner.checkpoint_blocks = wanted

    def compile_denoiser(self) -> None:
        """torch.compile the blocks of planner and backbone: alike as they are, few have to be compiled."""
        # the cached constants of the scan are pure functions: tracing through them is what we want
        warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
        torch._dynamo.config.recompile_limit = 32  # a block for each scan path, with and without a source
        for block in (*self.denoiser.backbone.blocks, *self.denoiser.planner.layers):
            block.compile(dynamic=False)


@dataclass(frozen=True)
class FlowBatch:
    """One piece of a step's batch: B captions, and ``draws`` noise draws of each one's latent."""

    ids: Tensor  # (B, L)
    z0: Tensor  # (B * draws, C, h, w), as `noise`
    noise: Tensor
    t: Tensor  # (B * draws,), as `has_plan`
    has_plan: Tensor
    draws: int
    source: Tensor | None = None  # clean latents (B * draws, C, h, w) of an edit

    @property
    def z(self) -> Tensor:
        return interpolate(self.z0, self.noise, self.t)


def predict(network: FlowNetwork, batch: FlowBatch) -> tuple[Tensor, Tensor]:
    """Velocity (B * draws, C, h, w) and plan (B * draws, K, D) that ``network`` gives for a batch.

    RIN's rule (arXiv 2212.11972): a first planner pass without gradient supplies the previous plan.
    """
    mask = (batch.ids != PAD_ID).float()
    text, pooled = network.text_encoder.encode(batch.ids, mask)
    text, mask, pooled = (value.repeat_interleave(batch.draws, 0) for value in (text, mask, pooled))
    z, planner = batch.z, network.denoiser.planner
    with torch.no_grad():
        empty = planner.empty(z.shape[0], z.device)
        first = torch.zeros_like(batch.has_plan)
        previous = planner(z, batch.t, pooled, empty, first, batch.source).float()
    velocity, plan = network.denoiser(z, batch.t, text, mask, pooled, previous, batch.has_plan, batch.source)
    return velocity, plan


def flow_terms(
    batch: FlowBatch, velocity: Tensor, plan: Tensor, diversity: float, wanted: Tensor | None = None
) -> dict[str, Tensor]:
    """Weighted velocity matching and, with the weight ``diversity``, the plan's similarity: means over samples.

    Args:
        wanted: the velocity (B * draws, C, h, w) to match; by default the data's own.
    """
    target = velocity_target(batch.z0, batch.noise) if wanted is None else wanted
    flow = weighted_velocity(velocity, target, loss_weight(batch.t))
    similarity = plan_similarity(plan)
    return {"loss": flow + diversity * similarity, "flow": flow, "plan_similarity": similarity}


def noising(
    shape: tuple[int, ...], time_shift: float, self_condition: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise of ``shape`` (B, ...), times (B,), and which samples have a previous plan (B,), on the generator's device."""
    count, device = shape[0], generator.device
    noise = torch.randn(shape, generator=generator, device=device)
    # one time per equal slice of [0, 1]: the same distribution with less variance
    t = torch.randperm(count, generator=generator, device=device).float()
    t = (t + torch.rand(count, generator=generator, device=device)) / count
    has_plan = (torch.rand(count, generator=generator, device=device) < self_condition).float()
    return noise, shifted_time(t, time_shift), has_plan


def frozen_network(checkpoint: Checkpoint, loop: LoopSettings) -> FlowNetwork:
    """The network of ``checkpoint`` to compare with: on the run's device, never trained.

    Raises:
        CheckpointError: when it lacks weights or they do not fit.
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
    """``tensor``, from the CPU, on ``device``; a GPU is not waited for."""
    if not device.startswith("cuda"):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class FlowStage(WithoutAdversary):
    """Velocity matching with text dropout, RIN self-conditioning and plan diversity."""

    def __init__(
        self, spec: ModelSpec, vae_checkpoint: Checkpoint, settings: FlowSettings, loop: LoopSettings,
        size: tuple[int, int], cache: Path, console: Console, init: Checkpoint | None = None,
        source: ImageSource | None = None, tokenizer: Path | None = None,
    ) -> None:  # fmt: skip
        """Encode the data, once, and build the network.

        Args:
            vae_checkpoint: of the VAE whose latents are learned; its tokenizer is used.
            cache: file of the encoded data set.
            init: weights to start from instead of random ones.
            source: of images and captions; the procedural world by default.
            tokenizer: another ``tokenizer.json`` than the VAE checkpoint's, for a text encoder that starts from nothing.

        Raises:
            CheckpointError: when there is no tokenizer, or another one than the weights of ``init`` were trained with.
        """
        self.spec, self.settings, self.loop, self.size = spec, settings, loop, size
        self.tokenizer = _tokenizer(vae_checkpoint, init, tokenizer)
        self.vae = MicroForgeVAE(self.spec.vae).requires_grad_(False).eval().to(loop.device)
        vae_checkpoint.load_into("vae", self.vae)
        length = self.spec.text_encoder.max_length
        self.source = SceneSource() if source is None else source
        plan = self.source.plan(settings.scenes, settings.captions_per_scene, loop.seed)
        self.data = load_or_build(
            cache, self.vae, self.tokenizer, self.source, plan, size, length, loop.device, console,
            ahead_workers(self.source, loop), sorted(cache.parent.parent.glob(f"*/{cache.name}")),
        )  # fmt: skip
        resident = loop.cuda and self.data.latents.nbytes <= RESIDENT
        self.latents = self.data.latents.to(loop.device) if resident else self.data.latents
        self.length_step = COMPILED_LENGTH_STEP if loop.compile else LENGTH_STEP
        self.empty = torch.from_numpy(self.tokenizer.encode_empty("generate", length).ids)
        torch.manual_seed(loop.seed)
        self.network: FlowNetwork = FlowNetwork(self.spec)
        if init is not None:
            self.network.load(init)
        self.network.to(loop.device)
        self.samples_per_step = settings.batch * settings.draws
        self.network.checkpoint_blocks(loop.checkpoint_blocks)
        if loop.compile:
            self.network.compile_denoiser()

    def loss(self, step: int, shard: Shard = WHOLE) -> Mapping[str, Tensor]:
        batch = self.draw(step, shard)
        return flow_terms(batch, *predict(self.network, batch), self.settings.diversity)

    def draw(self, step: int, shard: Shard) -> FlowBatch:
        """The rows ``shard`` of the whole batch of step ``step``, on the stage's device."""
        settings, device = self.settings, self.loop.device
        latents, ids = self._captioned(step, shard)
        count, draws = settings.batch * settings.draws, settings.draws
        generator = step_generator(self.loop.seed, step, device)
        shape = (count, *latents.shape[1:])
        noise, t, has_plan = noising(shape, settings.time_shift, settings.self_condition, generator)
        rows = shard.rows(count)
        return FlowBatch(
            ids, latents.repeat_interleave(draws, 0), noise[rows], t[rows], has_plan[rows], draws
        )

    def _captioned(self, step: int, shard: Shard) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) and caption ids (B, L), cut to about the batch's longest; a tenth have no text."""
        settings, rng = self.settings, step_rng(self.loop.seed, step)
        total, captions = self.data.captions.shape[:2]
        rows = torch.from_numpy(rng.integers(0, total, settings.batch))
        which = torch.from_numpy(rng.integers(0, captions, settings.batch))
        ids = self.data.captions[rows, which].long()
        dropped = torch.from_numpy(rng.random(settings.batch) < settings.text_dropout)
        ids = torch.where(dropped[:, None], self.empty[None], ids)
        mine = shard.rows(settings.batch)
        kept = without_padding(ids, self.length_step)[mine]
        if self.latents.device.type == "cpu":
            latents = on_device(self.latents[rows[mine]], self.loop.device)
        else:
            latents = self.latents[on_device(rows[mine], self.loop.device)]
        return latents.float(), on_device(kept, self.loop.device)

    def pipeline(self, ema: nn.Module) -> MicroForgePipeline:
        """The reference pipeline around the EMA weights."""
        assert isinstance(ema, FlowNetwork)
        denoiser, tokenizer = ema.denoiser, self.tokenizer
        return MicroForgePipeline(
            self.vae, denoiser.backbone, ema.text_encoder, denoiser.planner, tokenizer, self.spec
        )

    def sheet(self, ema: nn.Module) -> Tensor:
        """The source's prompts at fixed seeds, guided."""
        images = self.pipeline(ema).text2img(list(self.source.prompts(SHEET_PROMPTS)), *self.size)
        return grid(images, min(len(images), 6))

    def write(
        self,
        folder: Path,
        ema: nn.Module,
        stages: tuple[str, ...] = ("vae", "flow"),
        tasks: tuple[str, ...] = (),
    ) -> None:
        """Write the whole model; ``stages``: what it was trained in; ``tasks``: what it knows, the spec's by default."""
        assert isinstance(ema, FlowNetwork)
        modules = {
            "vae": self.vae, "backbone": ema.denoiser.backbone, "planner": ema.denoiser.planner,
            "text_encoder": ema.text_encoder,
        }  # fmt: skip
        spec = replace(self.spec, native_size=self.size, tasks=tasks or self.spec.tasks)
        write_checkpoint(folder, spec, modules, self.tokenizer, stages)


def _tokenizer(vae: Checkpoint, init: Checkpoint | None, file: Path | None) -> PromptTokenizer:
    """``file``'s tokenizer, which must be that of ``init`` where there is one; else the VAE checkpoint's."""
    path = file or vae.tokenizer
    if path is None:
        raise CheckpointError("the checkpoint has no tokenizer.json; run `mf-train vae` again")
    chosen = PromptTokenizer.load(path)
    if file is not None and init is not None and init.tokenizer is not None:
        if PromptTokenizer.load(init.tokenizer).to_json() != chosen.to_json():
            raise CheckpointError(
                f"the weights of --init read prompts with another tokenizer than {file}; leave out --init or --tokenizer"
            )
    return chosen
