"""What one run of a stage will do, checked as far as options go: settings, size, folder. Reads no checkpoint."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from microforge.data.open import makes_edits
from microforge.errors import SpecError, missing_extra
from microforge.spec import ModelSpec, check_size, parse_size
from microforge.training.engine.distributed import launched_precision
from microforge.training.settings import (
    DENOISER_STAGES,
    EDIT_SETTINGS,
    FLOW_SETTINGS,
    KD_SETTINGS,
    REWARD_SETTINGS,
    REWRITE_SETTINGS,
    SELF_TAUGHT,
    STAGES,
    TAUGHT,
    VAE_SETTINGS,
    LoopSettings,
    StageSettings,
    VAESettings,
    check_steps,
)

DECODER = "vae-decoder"  # the folder of a decoder-only run
_DENOISER = f"{', '.join(DENOISER_STAGES[:-1])} and {DENOISER_STAGES[-1]}"  # in messages
CHECKPOINT = "checkpoint"  # a stage's checkpoint, below RUN/STAGE


@dataclass(frozen=True)
class TrainRequest:
    """The options of one ``mf-train`` call, as typed."""

    stage: str
    out: Path
    config: str | None = None
    settings: Path | None = None
    data: str = "scenes"
    edits: str | None = None
    flip: bool = False
    random_crop: bool = False
    size: str | None = None
    steps: int | None = None
    batch: int | None = None
    init: str | None = None
    teacher: str | None = None
    tokenizer: Path | None = None
    resume: bool = False
    force: bool = False
    dry_run: bool = False
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False
    compile: bool = False
    accumulate: int | None = None
    checkpoint_blocks: bool = False
    optimizer: str | None = None
    decoder_only: bool = False
    crop: int | None = None
    threads: int | None = None
    workers: int | None = None
    minutes: float | None = None
    save_every: int = 500
    sample_every: int = 2000
    tensorboard: bool = False


@dataclass(frozen=True)
class StagePlan:
    """One run of one stage; ``settings.batch`` counts the samples of all processes."""

    stage: str
    name: str  # of its folder and in its state
    folder: Path
    spec: ModelSpec
    settings: StageSettings
    loop: LoopSettings
    size: tuple[int, int]
    data: str
    decoder_only: bool = False
    edits: str | None = None  # the folder of edit triples; None = the built-in world's
    tokenizer: Path | None = None  # of a new text encoder; None = that of the weights it stands on

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT


def preset_settings(stage: str, config: str) -> StageSettings:
    """The settings that ``config`` has for ``stage``.

    Raises:
        SpecError: for an unknown stage.
    """
    if stage not in STAGES:
        raise SpecError(f"unknown stage {stage!r}; allowed: {', '.join(STAGES)}")
    presets: Mapping[str, Mapping[str, StageSettings]] = {
        "vae": VAE_SETTINGS, "flow": FLOW_SETTINGS, "kd": KD_SETTINGS, "edit": EDIT_SETTINGS, "reward": REWARD_SETTINGS,
        "rewrite": REWRITE_SETTINGS,
    }  # fmt: skip
    return presets[stage][config]


def plan_stage(request: TrainRequest, spec: ModelSpec, native_size: tuple[int, int]) -> StagePlan:
    """The plan of ``mf-train STAGE``.

    Args:
        spec: the configuration's. native_size: what an omitted ``--size`` means.

    Raises:
        SpecError, MissingExtraError: for options that cannot work.
    """
    settings = _with_options(preset_settings(request.stage, spec.name), request)
    size = native_size if request.size is None else parse_size(request.size, spec.vae.downsample)
    name = DECODER if request.decoder_only else request.stage
    return StagePlan(
        request.stage, name, request.out / name, spec, settings, loop_settings(request), size,
        request.data, request.decoder_only, request.edits, request.tokenizer,
    )  # fmt: skip


def loop_settings(request: TrainRequest) -> LoopSettings:
    """How the request wants its run kept and watched.

    Raises:
        SpecError, MissingExtraError: for a device or a package that is not here.
    """
    if request.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise missing_extra("tensorboard", "train")
    device = pick_device(request.device)
    return LoopSettings(
        save_every=request.save_every, sample_every=request.sample_every, seed=request.seed,
        device=device, bfloat16=request.bf16 or launched_precision(), compile=request.compile,
        accumulate=1 if request.accumulate is None else request.accumulate,
        checkpoint_blocks=request.checkpoint_blocks, tensorboard=request.tensorboard,
        workers=_workers(request, device), minutes=request.minutes,
    )  # fmt: skip


def _workers(request: TrainRequest, device: str) -> int:
    """As asked for; by default a GPU gets a worker per core, less two for the run itself, and a CPU none."""
    if request.workers is not None:
        return request.workers
    return max(0, (os.cpu_count() or 1) - 2) if device.startswith("cuda") else 0


def _with_options(settings: StageSettings, request: TrainRequest) -> StageSettings:
    if request.decoder_only and request.stage != "vae":
        raise SpecError(f"--decoder-only belongs to the stage vae, not {request.stage}")
    if request.compile and request.stage not in DENOISER_STAGES:
        raise SpecError(f"--compile belongs to the stages {_DENOISER}, not {request.stage}")
    check_data(request.stage, request)
    if request.edits is not None and request.stage != "edit":
        raise SpecError(f"--edits belongs to the stage edit, not {request.stage}")
    if request.teacher is not None and request.stage not in TAUGHT:
        raise SpecError(f"--teacher belongs to the stages kd, edit, reward and rewrite, not {request.stage}")
    if request.teacher is None and request.stage == "kd" and not request.dry_run:
        raise SpecError("the stage kd needs --teacher CHECKPOINT")
    if request.tokenizer is not None and request.stage not in ("vae", "flow"):
        raise SpecError(f"--tokenizer belongs to the stages vae and flow, not {request.stage}")
    if request.settings is not None:
        raise SpecError(f"--settings belongs to the stage all, not {request.stage}")
    if request.crop is not None:
        if not isinstance(settings, VAESettings):
            raise SpecError(f"--crop belongs to the stage vae, not {request.stage}")
        settings = replace(settings, crop=check_size(request.crop, request.crop)[0])
    if request.steps is not None and request.minutes is not None:
        raise SpecError("--steps and --minutes both say how long the run is; give one of them")
    if request.steps is not None:
        settings = replace(settings, steps=request.steps)
    if request.batch is not None:
        settings = replace(settings, batch=request.batch)
    if request.optimizer is not None:
        settings = replace(settings, optimizer=replace(settings.optimizer, kind=request.optimizer))
    return check_settings(request.stage, settings)


def check_data(stage: str, request: TrainRequest) -> None:
    """Own images are not taught with the built-in world's edits by accident, nor judged by its oracle.

    Raises:
        SpecError: for ``--data`` of one's own in the stages reward and rewrite, or in the stage edit without ``--edits``.
    """
    if stage in SELF_TAUGHT and request.data != "scenes":
        raise SpecError(f"the stage {stage} needs captions that the oracle can judge: --data scenes")
    if stage == "edit" and not makes_edits(request.data) and request.edits is None:
        raise SpecError(
            "the stage edit with --data of your own needs --edits FOLDER, with source, instruction and target images"
        )


def check_settings(stage: str, settings: StageSettings) -> StageSettings:
    """``settings`` when they can be trained with; SpecError otherwise."""
    check_steps(settings.steps)
    if settings.batch < 1:
        raise SpecError(f"batch is {settings.batch}; allowed: 1 or more")
    if settings.optimizer.kind == "muon" and stage not in DENOISER_STAGES:
        raise SpecError(f"the optimizer muon belongs to the stages {_DENOISER}, not {stage}")
    return settings


def spread_over(plan: StagePlan, processes: int, device: str) -> StagePlan:
    """The same plan on ``processes`` processes: ``--batch`` counts for each, so the whole batch grows.

    Raises:
        SpecError: when a process's batch does not divide into its micro-batches.
    """
    batch, accumulate = plan.settings.batch, plan.loop.accumulate
    if batch % accumulate:
        raise SpecError(
            f"a batch of {batch} does not divide into {accumulate} micro-batches; choose a multiple of {accumulate}"
        )
    settings = replace(plan.settings, batch=batch * processes)
    return replace(plan, settings=settings, loop=replace(plan.loop, device=device))


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
