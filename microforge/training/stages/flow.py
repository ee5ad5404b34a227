"""Stages 2 and 3: rectified flow on cached latents; trains planner, backbone and text encoder (SPEC section 4).

Letters: B captions, L text tokens, C h w latent channels, height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from microforge.checkpoint import Checkpoint, write_checkpoint
from microforge.data.image_source import ImageSource
from microforge.errors import CheckpointError
from microforge.pipeline import MicroForgePipeline
from microforge.spec import ModelSpec
from microforge.tokenizer import PromptTokenizer
from microforge.training.caches.encoder import LatentEncoder
from microforge.training.caches.latents import load_or_build
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.loop import StageDefaults
from microforge.training.engine.plots import grid
from microforge.training.engine.prefetch import prefetch_workers
from microforge.training.engine.state import step_generator, step_rng
from microforge.training.loop_options import LoopSettings
from microforge.training.settings import FlowSettings
from microforge.training.stages.flow_network import (
    COMPILED_LENGTH_STEP,
    LENGTH_STEP,
    FlowBatch,
    FlowNetwork,
    flow_terms,
    on_device,
    predict,
    sample_noise,
    without_padding,
)
from microforge.vae import MicroForgeVAE

#: Prompts of a sample sheet, and images in a row of it.
SHEET_PROMPTS, SHEET_COLUMNS = 12, 6
#: Latents of up to this many bytes are kept on the GPU.
GPU_CACHE_BYTES = 4 << 30


@dataclass(frozen=True)
class FlowContext:
    """What the denoiser stages of a run share: configuration, frozen encoder, and how the run is executed."""

    spec: ModelSpec
    encoder: LatentEncoder
    loop: LoopSettings

    @classmethod
    def open(
        cls,
        spec: ModelSpec,
        vae: Checkpoint,
        loop: LoopSettings,
        size: tuple[int, int],
        tokenizer: PromptTokenizer | None = None,
    ) -> FlowContext:
        """Load the VAE of the checkpoint ``vae``, for images of ``size`` (height, width); its tokenizer is the default.

        Raises:
            CheckpointError: when there is no tokenizer, or weights are missing.
        """
        tokenizer = choose_tokenizer(vae) if tokenizer is None else tokenizer
        network = MicroForgeVAE(spec.vae).requires_grad_(False).eval().to(loop.device)
        vae.load_into("vae", network)
        encoder = LatentEncoder(network, tokenizer, size, spec.text_encoder.max_length, loop.device)
        return cls(spec, encoder, loop)

    @property
    def seed(self) -> int:
        return self.loop.seed

    @property
    def device(self) -> str:
        return self.loop.device

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the training images in pixels."""
        return self.encoder.size

    @property
    def length_step(self) -> int:
        """The multiple that captions are padded to."""
        return COMPILED_LENGTH_STEP if self.loop.compile else LENGTH_STEP

    def pipeline(self, ema: nn.Module) -> MicroForgePipeline:
        """The reference pipeline of the averaged weights ``ema``."""
        assert isinstance(ema, FlowNetwork)
        denoiser, encoder = ema.denoiser, self.encoder
        return MicroForgePipeline(
            encoder.vae,
            denoiser.backbone,
            ema.text_encoder,
            denoiser.planner,
            encoder.tokenizer,
            self.spec,
        )

    def write(
        self, folder: Path, ema: nn.Module, stages: tuple[str, ...], tasks: tuple[str, ...] = ()
    ) -> None:
        """Write a checkpoint of the whole model.

        Args:
            folder: Where to write it.
            ema: The averaged weights.
            stages: The stages that the weights were trained in.
            tasks: The tasks that the model can do; those of the configuration by default.
        """
        spec = replace(self.spec, native_size=self.size, tasks=tasks or self.spec.tasks)
        modules = self.pipeline(ema).modules_by_name()
        write_checkpoint(folder, spec, modules, self.encoder.tokenizer, stages)


def choose_tokenizer(
    vae: Checkpoint, init: Checkpoint | None = None, file: Path | None = None
) -> PromptTokenizer:
    """The tokenizer in ``file``, which must be that of ``init`` if there is one; by default that of the VAE's checkpoint.

    Raises:
        CheckpointError: when there is none, or another one than the weights of ``init`` were trained with.
    """
    path = file or vae.tokenizer
    if path is None:
        raise CheckpointError("the checkpoint has no tokenizer.json; run `mf-train vae` again")
    if file is not None and init is not None and init.tokenizer is not None:
        if not same_tokenizer(init.tokenizer, file):
            raise CheckpointError(
                f"the weights of --init read prompts with another tokenizer than {file}; leave out --init or tokenizer"
            )
    return PromptTokenizer.load(path)


def same_tokenizer(one: Path, other: Path) -> bool:
    """Whether two tokenizer files hold the same tokenizer."""
    return PromptTokenizer.load(one).to_json() == PromptTokenizer.load(other).to_json()


class FlowStage(StageDefaults):
    """Velocity matching with text dropout, self-conditioning (RIN) and plan diversity."""

    def __init__(
        self,
        context: FlowContext,
        settings: FlowSettings,
        source: ImageSource,
        cache: Path,
        console: Console,
        init: Checkpoint | None = None,
    ) -> None:
        """Encode the data, once, and build the network.

        Args:
            context: What the denoiser stages share.
            settings: Settings of the stage.
            source: Images and captions.
            cache: File of the encoded data set.
            console: Shows the progress of encoding.
            init: Starting weights; random ones by default.
        """
        self.context, self.settings, self.source = context, settings, source
        self.data_sources = (source,)
        loop, encoder = context.loop, context.encoder
        plan = source.plan(settings.scenes, settings.captions_per_scene, loop.seed)
        others = sorted(cache.parent.parent.glob(f"*/{cache.name}"))
        workers = prefetch_workers(source, loop)
        self.data = load_or_build(cache, encoder, source, plan, console, workers, others)
        on_gpu = loop.cuda and self.data.latents.nbytes <= GPU_CACHE_BYTES
        self.latents = self.data.latents.to(loop.device) if on_gpu else self.data.latents
        self.empty = encoder.ids([None], "generate")[0]  # (L,) the empty prompt
        torch.manual_seed(loop.seed)
        self.network: FlowNetwork = FlowNetwork(context.spec)
        if init is not None:
            self.network.load(init)
        self.network.to(loop.device)
        self.samples_per_step = settings.batch * settings.noise_samples
        self.network.checkpoint_blocks(loop.checkpoint_blocks)
        if loop.compile:
            self.network.compile_denoiser()

    def loss(self, step: int, shard: BatchShard = WHOLE) -> Mapping[str, Tensor]:
        """Terms ``loss``, ``flow`` and ``plan_similarity`` of this piece of step ``step``."""
        batch = self.make_batch(step, shard)
        return flow_terms(batch, *predict(self.network, batch), self.settings.diversity)

    def make_batch(self, step: int, shard: BatchShard) -> FlowBatch:
        """The rows ``shard`` of the whole batch of step ``step``, on the run's device."""
        settings, context = self.settings, self.context
        latents, ids = self._captioned(step, shard)
        count = settings.batch * settings.noise_samples
        generator = step_generator(context.seed, step, context.device)
        shape = (count, *latents.shape[1:])
        noise, t, has_plan = sample_noise(shape, settings.time_shift, settings.self_condition, generator)
        rows = shard.rows(count)
        z0 = latents.repeat_interleave(settings.noise_samples, 0)
        return FlowBatch(ids, z0, noise[rows], t[rows], has_plan[rows], settings.noise_samples)

    def _captioned(self, step: int, shard: BatchShard) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) and caption ids (B, L) of a step's rows; some captions are replaced by the empty prompt."""
        settings, rng = self.settings, step_rng(self.context.seed, step)
        total, captions = self.data.captions.shape[:2]
        rows = torch.from_numpy(rng.integers(0, total, settings.batch))
        choice = torch.from_numpy(rng.integers(0, captions, settings.batch))
        ids = self.data.captions[rows, choice].long()
        dropped = torch.from_numpy(rng.random(settings.batch) < settings.text_dropout)
        ids = torch.where(dropped[:, None], self.empty[None], ids)
        piece, device = shard.rows(settings.batch), self.context.device
        # the whole batch is cut to one length, so that every piece computes as the whole does
        ids = without_padding(ids, self.context.length_step)[piece]
        if self.latents.device.type == "cpu":
            latents = on_device(self.latents[rows[piece]], device)
        else:
            latents = self.latents[on_device(rows[piece], device)]
        return latents.float(), on_device(ids, device)

    def sheet(self, ema: nn.Module) -> Tensor:
        """Guided samples of the source's prompts at fixed seeds."""
        prompts = list(self.source.prompts(SHEET_PROMPTS))
        images = self.context.pipeline(ema).text2img(prompts, *self.context.size)
        return grid(images, min(len(images), SHEET_COLUMNS))

    def write(self, folder: Path, ema: nn.Module) -> None:
        """Write a checkpoint of the whole model."""
        self.context.write(folder, ema, ("vae", "flow"))
