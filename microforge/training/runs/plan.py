"""What one run will do, checked as far as options go. Reads no checkpoint.

``RunPlan`` is what every run has; ``StagePlan`` is that of ``mf-train STAGE``, and distillation has one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from microforge.errors import SpecError
from microforge.io.settings_file import with_values
from microforge.spec import ModelSpec, check_size, parse_size
from microforge.training.engine.device import resolve_loop
from microforge.training.loop_options import DataOptions, LoopSettings
from microforge.training.presets import preset_settings
from microforge.training.runs.request import TrainRequest, check_stage_options
from microforge.training.settings import (
    DENOISER_STAGES,
    FEEDBACK_STAGES,
    StageSettings,
    TrainingSettings,
    VAESettings,
    check_steps,
)

#: The folder of a decoder-only run.
DECODER = "vae-decoder"
#: A stage's checkpoint, in its folder.
CHECKPOINT = "checkpoint"
_DENOISER = f"{', '.join(DENOISER_STAGES[:-1])} and {DENOISER_STAGES[-1]}"


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One run: what it trains, on what data, and how; ``settings.batch`` counts the rows of all processes."""

    name: str  # of its folder, and in its state
    folder: Path
    spec: ModelSpec
    settings: TrainingSettings
    loop: LoopSettings
    size: tuple[int, int]  # height and width of the images in pixels
    data: DataOptions

    @property
    def checkpoint(self) -> Path:
        """The folder of the last checkpoint."""
        return self.folder / CHECKPOINT


@dataclass(frozen=True, kw_only=True)
class StagePlan(RunPlan):
    """One run of one stage of ``mf-train``."""

    stage: str
    settings: StageSettings
    decoder_only: bool = False
    tokenizer: Path | None = None  # of a new text encoder; None: that of the starting weights


PlanT = TypeVar("PlanT", bound=RunPlan)


def plan_stage(
    request: TrainRequest, spec: ModelSpec, native_size: tuple[int, int], estimate: bool = False
) -> StagePlan:
    """The plan of ``mf-train STAGE``.

    Args:
        request: The options.
        spec: The configuration.
        native_size: The size when none is given.
        estimate: Plan for a memory estimate, which needs no teacher.

    Raises:
        SpecError: for options that cannot work.
        MissingExtraError: for a package that is not installed.
    """
    stage, options = request.stage, request.options
    check_stage_options(request)
    check_data(stage, request.data)
    settings = stage_settings(stage, spec.name, request.settings, "settings")
    if options.teacher is None and stage == "kd" and not estimate:
        raise SpecError("the stage kd needs --teacher CHECKPOINT")
    name = DECODER if options.decoder_only else stage
    return StagePlan(
        stage=stage,
        name=name,
        folder=request.out / name,
        spec=spec,
        settings=settings,
        loop=resolve_loop(request.loop),
        size=native_size if options.size is None else parse_size(options.size, spec.vae.downsample),
        data=request.data,
        decoder_only=options.decoder_only,
        tokenizer=None if options.tokenizer is None else Path(options.tokenizer),
    )


def stage_settings(stage: str, config: str, values: Mapping[str, Any], where: str) -> StageSettings:
    """The preset of a stage with ``values``; ``where`` stands in messages.

    Raises:
        SpecError: for an unknown stage or key, or a value that cannot be trained with.
    """
    settings = with_values(preset_settings(stage, config), values, where)
    check_steps(settings.steps)
    if settings.batch < 1:
        raise SpecError(f"batch is {settings.batch}; allowed: 1 or more")
    if settings.optimizer.kind == "muon" and stage not in DENOISER_STAGES:
        raise SpecError(f"the optimizer muon belongs to the stages {_DENOISER}, not to {stage}")
    if isinstance(settings, VAESettings) and settings.crop is not None:
        check_size(settings.crop, settings.crop)
    return settings


def check_data(stage: str, data: DataOptions) -> None:
    """Refuse the user's own images where they need their own edits, or cannot be judged.

    Raises:
        SpecError: for the stages reward and rewrite, or the stage edit without ``edits``.
    """
    if stage in FEEDBACK_STAGES and not data.built_in:
        raise SpecError(f"the stage {stage} needs captions that the oracle can judge: --data scenes")
    if stage == "edit" and not data.has_edits:
        raise SpecError(
            "the stage edit with --data of your own needs --set edits=FOLDER, with source, instruction and target "
            "images"
        )


def spread_over(plan: PlanT, processes: int, device: str) -> PlanT:
    """The plan on ``processes`` processes: the batch counts per process, so the whole batch grows.

    Raises:
        SpecError: when the batch of a process does not divide into its micro-batches.
    """
    batch, accumulate = plan.settings.batch, plan.loop.accumulate
    if batch % accumulate:
        raise SpecError(
            f"a batch of {batch} does not divide into {accumulate} micro-batches; choose a multiple of {accumulate}"
        )
    settings = replace(plan.settings, batch=batch * processes)
    return replace(plan, settings=settings, loop=replace(plan.loop, device=device))
