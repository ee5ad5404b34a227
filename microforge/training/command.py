"""What ``mf-train`` does with its options: check them all, then build the stage and run the loop."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from microforge.checkpoint import CONFIG, Checkpoint, read_checkpoint
from microforge.data.corpus import build_tokenizer
from microforge.errors import CheckpointError, DataError, OutputExistsError, SpecError
from microforge.spec import ModelSpec, check_size, parse_size, preset
from microforge.tokenizer import PRETRAINED, PromptTokenizer
from microforge.training.flow_stage import FlowStage
from microforge.training.loop import Run, Stage, train
from microforge.training.settings import (
    FLOW_SETTINGS,
    VAE_SETTINGS,
    FlowSettings,
    LoopSettings,
    VAESettings,
    check_steps,
)
from microforge.training.state import STATE, RunIdentity
from microforge.training.vae_stage import VAEStage

#: Where a stage's checkpoint is, below RUN/STAGE.
CHECKPOINT = "checkpoint"
STAGES = ("vae", "flow")
DECODER = "vae-decoder"  # the folder of a decoder-only run


@dataclass(frozen=True)
class TrainRequest:
    """The options of one ``mf-train`` call, as typed."""

    stage: str
    config: str
    out: Path
    data: str = "scenes"
    size: str | None = None
    steps: int | None = None
    batch: int | None = None
    resume: bool = False
    force: bool = False
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False
    compile: bool = False
    decoder_only: bool = False
    crop: int | None = None
    threads: int | None = None
    save_every: int = 500
    sample_every: int = 2000


def run_stage(request: TrainRequest) -> dict[str, object]:
    """Train one stage and return where its checkpoint is.

    Raises:
        SpecError, DataError, CheckpointError, OutputExistsError: for options that cannot work; nothing is
            written then.
    """
    spec = preset(request.config)
    if request.data != "scenes":
        raise DataError(f"--data is {request.data!r}; allowed: scenes (the built-in procedural world)")
    multiple = spec.vae.downsample
    size = check_size(*spec.native_size) if request.size is None else parse_size(request.size, multiple)
    loop = LoopSettings(
        save_every=request.save_every, sample_every=request.sample_every, seed=request.seed,
        device=pick_device(request.device), bfloat16=request.bf16, compile=request.compile,
    )  # fmt: skip
    settings = stage_settings(request)
    name = DECODER if request.decoder_only else request.stage
    folder = request.out / name
    checkpoint = folder / CHECKPOINT
    finished = _finished_vae(request, spec)
    _prepare(folder, request)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    console = Console(stderr=True)
    stage = _build(settings, spec, finished, loop, size, folder, console)
    identity = RunIdentity(name, spec.name, request.seed)
    run = Run(folder, checkpoint, identity, settings.steps, settings.optimizer, loop)
    loss = train(run, stage, console)
    return {"checkpoint": str(checkpoint.absolute()), "steps": settings.steps, "loss": loss}


def stage_settings(request: TrainRequest) -> VAESettings | FlowSettings:
    """The preset of the stage with the request's steps and batch."""
    if request.stage not in STAGES:
        raise SpecError(f"unknown stage {request.stage!r}; allowed: {', '.join(STAGES)}")
    settings = (VAE_SETTINGS if request.stage == "vae" else FLOW_SETTINGS)[request.config]
    if request.decoder_only and request.stage != "vae":
        raise SpecError(f"--decoder-only belongs to the stage vae, not {request.stage}")
    if request.compile and request.stage != "flow":
        raise SpecError(f"--compile belongs to the stage flow, not {request.stage}")
    if request.crop is not None:
        if not isinstance(settings, VAESettings):
            raise SpecError(f"--crop belongs to the stage vae, not {request.stage}")
        settings = replace(settings, crop=check_size(request.crop, request.crop)[0])
    if request.steps is not None:
        settings = replace(settings, steps=check_steps(request.steps))
    if request.batch is not None:
        if request.batch < 1:
            raise SpecError(f"batch is {request.batch}; allowed: 1 or more")
        settings = replace(settings, batch=request.batch)
    return settings


def pick_device(name: str) -> str:
    """``auto`` to the best device here; any other name is checked.

    Raises:
        SpecError: when PyTorch cannot use it here.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if name == "auto":
        return available[0]
    if name.split(":")[0] not in available:
        raise SpecError(f"device {name!r} is not available here; allowed: auto, {', '.join(available)}")
    return name


def _finished_vae(request: TrainRequest, spec: ModelSpec) -> Checkpoint | None:
    """The VAE that this run stands on: flow and decoder-only runs need one of the same configuration."""
    if request.stage == "vae" and not request.decoder_only:
        return None
    folder, tuned = (request.out / name / CHECKPOINT for name in ("vae", DECODER))
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{request.out} has no VAE yet: run mf-train vae --config {request.config} --out {request.out} first"
        )
    found = read_checkpoint(folder)
    if found.spec.name != spec.name:
        raise CheckpointError(f"{folder} was trained with --config {found.spec.name}, not {spec.name}")
    if request.decoder_only or not (tuned / CONFIG).is_file():
        return found
    better = read_checkpoint(tuned)
    if not _same_latents(found, better):
        raise CheckpointError(
            f"{tuned} belongs to an older VAE; run mf-train vae --decoder-only --force again or remove {tuned.parent}"
        )
    return better


def _same_latents(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two VAEs differ in their decoders only."""
    one, two = (checkpoint.module_tensors("vae.encoder") for checkpoint in (first, second))
    return first.spec.vae == second.spec.vae and all(
        torch.equal(value, two[name]) for name, value in one.items()
    )


def _prepare(folder: Path, request: TrainRequest) -> None:
    """Never mix two runs: a state on disk needs --resume or --force."""
    exists = (folder / STATE).is_file()
    if request.resume and not exists:
        raise CheckpointError(f"nothing to resume: {folder / STATE} does not exist; leave out --resume")
    if exists and not request.resume:
        if not request.force:
            raise OutputExistsError(f"{folder} holds a run; --resume goes on with it, --force starts over")
        shutil.rmtree(folder)


def _build(
    settings: VAESettings | FlowSettings, spec: ModelSpec, finished: Checkpoint | None, loop: LoopSettings,
    size: tuple[int, int], folder: Path, console: Console,
) -> Stage:  # fmt: skip
    if finished is not None:
        spec = replace(spec, vae=finished.spec.vae)  # with the latent statistics that were measured
    if isinstance(settings, VAESettings):
        tokenizer = PromptTokenizer.load() if PRETRAINED.is_file() else build_tokenizer()
        return VAEStage(spec, settings, loop, size, tokenizer, finished)
    assert finished is not None
    return FlowStage(spec, finished, settings, loop, size, folder / "latents.safetensors", console)
