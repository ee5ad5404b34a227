"""Stage 2: rectified flow on cached latents (SPEC section 4), planner and text encoder included."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from microforge.checkpoint import Checkpoint, write_checkpoint
from microforge.denoiser import Denoiser, build_backbone, build_planner
from microforge.errors import CheckpointError
from microforge.pipeline import MicroForgePipeline
from microforge.planner import plan_similarity
from microforge.sampling import interpolate, loss_weight, velocity_target
from microforge.spec import ModelSpec
from microforge.text_encoder import PAD_ID, SimpleTextEncoder
from microforge.tokenizer import PromptTokenizer
from microforge.training.latents import load_or_build
from microforge.training.losses import weighted_velocity
from microforge.training.report import grid
from microforge.training.settings import FlowSettings, LoopSettings
from microforge.training.state import step_generator, step_rng
from microforge.vae import MicroForgeVAE

#: What the sample sheets show, at seed 0.
SHEET_PROMPTS = (
    "a red circle", "a blue square on a white background", "a green triangle on the left",
    "a yellow star on a black background", "a small pink heart", "a large orange ring", "two purple diamonds",
    "three blue circles", "a red square and a green circle", "a yellow heart left of a blue star",
    "a cyan cross above a brown triangle", "a white circle on a gray background",
)  # fmt: skip


#: Captions are padded to multiples of this, so that a compiled network sees few shapes.
LENGTH_STEP = 8


class FlowNetwork(nn.Module):
    """What the flow stage trains: text encoder and denoiser."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.text_encoder = SimpleTextEncoder.from_spec(spec.text_encoder)
        self.denoiser = Denoiser(build_backbone(spec), build_planner(spec))


class FlowStage:
    """Velocity matching with text dropout, RIN self-conditioning and plan diversity."""

    def __init__(
        self, spec: ModelSpec, vae_checkpoint: Checkpoint, settings: FlowSettings, loop: LoopSettings,
        size: tuple[int, int], cache: Path, console: Console,
    ) -> None:  # fmt: skip
        self.spec, self.settings, self.loop, self.size = spec, settings, loop, size
        if vae_checkpoint.tokenizer is None:
            raise CheckpointError("the checkpoint has no tokenizer.json; run `mf-train vae` again")
        self.tokenizer = PromptTokenizer.load(vae_checkpoint.tokenizer)
        self.vae = MicroForgeVAE(self.spec.vae).requires_grad_(False).eval().to(loop.device)
        vae_checkpoint.load_into("vae", self.vae)
        length = self.spec.text_encoder.max_length
        self.data = load_or_build(
            cache, self.vae, self.tokenizer, settings.scenes, settings.captions_per_scene,
            size, length, loop.seed, loop.device, console,
        )  # fmt: skip
        self.empty = torch.from_numpy(self.tokenizer.encode_empty("generate", length).ids)
        torch.manual_seed(loop.seed)
        self.network: FlowNetwork = FlowNetwork(self.spec).to(loop.device)
        self.samples_per_step = settings.batch * settings.draws
        if loop.compile:
            # the cached constants of the scan are pure functions: tracing through them is what we want
            warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
            self.network.denoiser.compile(dynamic=False)
            self.network.denoiser.planner.compile(dynamic=False)

    def loss(self, step: int) -> Mapping[str, Tensor]:
        settings, device = self.settings, self.loop.device
        z0, ids = self._batch(step)
        mask = (ids != PAD_ID).float()
        text, pooled = self.network.text_encoder.encode(ids, mask)
        draws = settings.draws
        text, mask, pooled, z0 = (value.repeat_interleave(draws, 0) for value in (text, mask, pooled, z0))
        count = z0.shape[0]
        generator = step_generator(self.loop.seed, step, device)
        noise = torch.randn(z0.shape, generator=generator, device=device)
        # one time per equal slice of [0, 1]: the same distribution with less variance
        t = torch.randperm(count, generator=generator, device=device).float()
        t = (t + torch.rand(count, generator=generator, device=device)) / count
        z = interpolate(z0, noise, t)
        has_plan = (torch.rand(count, generator=generator, device=device) < settings.self_condition).float()
        planner = self.network.denoiser.planner
        with torch.no_grad():  # RIN's rule: a first pass without gradient supplies the previous plan
            empty = planner.empty(count, z.device)
            previous = planner(z, t, pooled, empty, torch.zeros_like(has_plan)).float()
        velocity, plan = self.network.denoiser(z, t, text, mask, pooled, previous, has_plan)
        flow = weighted_velocity(velocity, velocity_target(z0, noise), loss_weight(t))
        similarity = plan_similarity(plan)
        return {"loss": flow + settings.diversity * similarity, "flow": flow, "plan_similarity": similarity}

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) and caption ids (B, L), cut to about the longest caption; a tenth have no text."""
        settings, rng = self.settings, step_rng(self.loop.seed, step)
        total, captions = self.data.captions.shape[:2]
        rows = torch.from_numpy(rng.integers(0, total, settings.batch))
        which = torch.from_numpy(rng.integers(0, captions, settings.batch))
        ids = self.data.captions[rows, which].long()
        dropped = torch.from_numpy(rng.random(settings.batch) < settings.text_dropout)
        ids = torch.where(dropped[:, None], self.empty[None], ids)
        longest = int((ids != PAD_ID).sum(1).max())
        longest = -(-longest // LENGTH_STEP) * LENGTH_STEP
        return self.data.latents[rows].float().to(self.loop.device), ids[:, :longest].to(self.loop.device)

    def pipeline(self, ema: nn.Module) -> MicroForgePipeline:
        """The reference pipeline around the EMA weights."""
        assert isinstance(ema, FlowNetwork)
        denoiser, tokenizer = ema.denoiser, self.tokenizer
        return MicroForgePipeline(
            self.vae, denoiser.backbone, ema.text_encoder, denoiser.planner, tokenizer, self.spec
        )

    def sheet(self, ema: nn.Module) -> Tensor:
        """The fixed prompts at fixed seeds, guided."""
        images = self.pipeline(ema).text2img(list(SHEET_PROMPTS), *self.size)
        return grid(images, 6)

    def write(self, folder: Path, ema: nn.Module) -> None:
        assert isinstance(ema, FlowNetwork)
        modules = {
            "vae": self.vae, "backbone": ema.denoiser.backbone, "planner": ema.denoiser.planner,
            "text_encoder": ema.text_encoder,
        }  # fmt: skip
        spec = replace(self.spec, native_size=self.size)
        write_checkpoint(folder, spec, modules, self.tokenizer, ("vae", "flow"))
