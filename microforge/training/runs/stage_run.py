"""What ``mf-train STAGE`` does with its options: check them all, then build the stage and run the loop."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from rich.console import Console

from microforge.checkpoint import CONFIG, read_checkpoint
from microforge.data.image_source import ImageSource
from microforge.data.open import open_triples
from microforge.data.world.image_source import SCENES
from microforge.data.world.tokenizer_corpus import build_tokenizer
from microforge.errors import CheckpointError, OutputExistsError
from microforge.spec import preset
from microforge.tokenizer import SHIPPED_TOKENIZER, PromptTokenizer
from microforge.training.engine.distributed import Processes, end_processes, open_processes
from microforge.training.engine.loop import Run, Stage, train
from microforge.training.engine.state import STATE, RunIdentity, check_identity
from microforge.training.runs.data_report import open_data, report_data, report_skipped
from microforge.training.runs.memory_estimate import describe
from microforge.training.runs.plan import StagePlan, TrainRequest, plan_stage, spread_over
from microforge.training.runs.starting_weights import Ground, find_ground, open_checkpoint, stand_on
from microforge.training.settings import (
    EditSettings,
    KDSettings,
    RewardSettings,
    RewriteSettings,
    VAESettings,
)
from microforge.training.stages.edit import EditStage
from microforge.training.stages.flow import FlowStage
from microforge.training.stages.kd import KDStage
from microforge.training.stages.oracle_feedback import SelfTaughtStage
from microforge.training.stages.reward import RewardStage
from microforge.training.stages.rewrite import RewriteStage
from microforge.training.stages.vae import VAEStage

#: What ``--config`` is when neither it nor ``--init`` says.
DEFAULT_CONFIG = "tiny"
#: Files of a stage's folder that ``--force`` keeps: they say themselves what they were made from.
CACHES = ("latents", "judged")


def run_stage(request: TrainRequest) -> dict[str, object]:
    """Train one stage and return where its checkpoint is; with ``dry_run`` only what it would take.

    Raises:
        SpecError, DataError, CheckpointError, OutputExistsError, MissingExtraError: for options that cannot
            work; nothing is written then.
    """
    init = None if request.init is None else open_checkpoint(request.init)
    spec = preset(request.config or (DEFAULT_CONFIG if init is None else init.spec.name))
    plan = plan_stage(request, spec, (spec if init is None else init.spec).native_size)
    console = Console(stderr=True)
    if request.dry_run:
        teacher = None if request.teacher is None else open_checkpoint(request.teacher).spec
        return describe(spread_over(plan, 1, plan.loop.device), teacher, console)
    ground = find_ground(request, plan, init)
    plan = stand_on(plan, ground)
    check_folder(plan, ground, request.resume, request.force)
    spread_over(plan, 1, plan.loop.device)  # refuse a batch that does not divide before waiting for others
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    processes = open_processes(plan.loop.device)
    try:
        source = open_data(request, console, processes)
        return run_plan(plan, ground, source, request.force, console, processes)
    finally:
        end_processes(processes)


def run_plan(
    plan: StagePlan,
    ground: Ground,
    source: ImageSource,
    force: bool,
    console: Console,
    processes: Processes,
) -> dict[str, object]:
    """Build the stage and train it to its last step; ``check_folder`` has passed."""
    plan = spread_over(plan, processes.count, processes.device)
    with processes.main_first():
        stage = build_stage(plan, ground, source, console)
    processes.wait()  # before the main process clears what the others have looked at
    if force and processes.is_main:
        clear_run(plan.folder)
    processes.wait()
    if isinstance(stage, RewardStage | RewriteStage):
        drawer = ground.teacher or ground.init
        assert drawer is not None
        stage.prepare(plan.folder / "judged.safetensors", drawer, console, processes)
    if processes.is_main:
        report_data(source, plan.folder, console)
    settings = plan.settings
    height, width = plan.size
    run = Run(
        plan.folder, plan.checkpoint, identity(plan, ground), settings.steps, settings.optimizer, plan.loop,
        f"{height}x{width}",
    )  # fmt: skip
    loss = train(run, stage, console, processes)
    if processes.is_main:
        edit = stage.edit if isinstance(stage, SelfTaughtStage) else stage
        if isinstance(edit, EditStage):
            report_skipped(edit.triples, plan.folder, console)
        report_skipped(source, plan.folder, console)  # what turned out to be broken on the way
    return {"checkpoint": str(plan.checkpoint.absolute()), "steps": settings.steps, "loss": loss}


def identity(plan: StagePlan, ground: Ground) -> RunIdentity:
    """What a state on disk must agree with to be resumed."""
    return RunIdentity(
        plan.name, plan.spec.name, plan.loop.seed, ground.encoder, plan.settings.optimizer.kind,
        SCENES if plan.data == SCENES else "own images",
    )  # fmt: skip


def check_folder(plan: StagePlan, ground: Ground, resume: bool, force: bool) -> None:
    """Never mix two runs: a state on disk needs --resume, and must be this run's, or --force.

    Raises:
        OutputExistsError, CheckpointError: otherwise.
    """
    folder = plan.folder
    exists = (folder / STATE).is_file()
    if resume and not exists:
        raise CheckpointError(f"nothing to resume: {folder / STATE} does not exist; leave out --resume")
    if exists and resume:
        check_identity(folder, identity(plan, ground))
        _check_tokenizer(plan, ground)
    elif exists and not force:
        raise OutputExistsError(f"{folder} holds a run; --resume goes on with it, --force starts over")


def clear_run(folder: Path) -> None:
    """Remove a run but not its caches."""
    for entry in folder.iterdir() if (folder / STATE).is_file() else ():
        if entry.name.startswith(CACHES):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def build_stage(plan: StagePlan, ground: Ground, source: ImageSource, console: Console) -> Stage:
    """The stage of a plan, its network filled with the weights it starts from, its data ready.

    Raises:
        CheckpointError, MissingExtraError: when weights do not fit, or a loss term needs a package.
        DataError: when not one image can be used.
    """
    settings, loop = plan.settings, plan.loop
    if isinstance(settings, VAESettings):
        tokenizer = _vae_tokenizer(plan)
        finished = ground.vae if plan.decoder_only else None
        source.prepare(plan.size)
        vae = VAEStage(plan.spec, settings, loop, plan.size, tokenizer, finished, source=source)
        if ground.init is not None:
            ground.init.load_into("vae", vae.network)
        return vae
    assert ground.vae is not None
    cache = plan.folder / "latents.safetensors"
    flow = FlowStage(
        plan.spec, ground.vae, settings, loop, plan.size, cache, console, ground.init, source, plan.tokenizer
    )  # fmt: skip
    if isinstance(settings, KDSettings):
        assert ground.teacher is not None
        return KDStage(flow, settings, ground.teacher)
    if isinstance(settings, EditSettings):
        assert ground.init is not None
        triples = open_triples(source, plan.edits)
        kept = ground.init if settings.keep else None
        if plan.stage == "edit" and ground.teacher is not None:
            kept = ground.teacher
        cache = plan.folder / "triples.safetensors"
        edit = EditStage(flow, settings, triples, ground.init, cache, console, kept)
        if isinstance(settings, RewriteSettings):
            return RewriteStage(edit, settings, ground.init)
        return RewardStage(edit, settings, ground.init) if isinstance(settings, RewardSettings) else edit
    return flow


def _vae_tokenizer(plan: StagePlan) -> PromptTokenizer:
    """What the VAE's checkpoint hands on to the stages after it."""
    if plan.tokenizer is not None:
        return PromptTokenizer.load(plan.tokenizer)
    return PromptTokenizer.load() if SHIPPED_TOKENIZER.is_file() else build_tokenizer()


def _check_tokenizer(plan: StagePlan, ground: Ground) -> None:
    """A run goes on with the tokenizer that its text encoder has learned from.

    Raises:
        CheckpointError: when its last checkpoint has another one than it would be given now.
    """
    path = plan.tokenizer or (None if ground.vae is None else ground.vae.tokenizer)
    if plan.stage != "flow" or path is None or not (plan.checkpoint / CONFIG).is_file():
        return
    before = read_checkpoint(plan.checkpoint).tokenizer
    if before is not None and PromptTokenizer.load(before).to_json() != PromptTokenizer.load(path).to_json():
        raise CheckpointError(
            f"{plan.folder} was trained with another tokenizer than {path}; repeat its --tokenizer"
        )
