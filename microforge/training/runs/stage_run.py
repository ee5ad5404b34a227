"""``mf-train STAGE``: checks all options, then builds the stage and trains it."""

from __future__ import annotations

from rich.console import Console

from microforge.checkpoint import CONFIG, Checkpoint, read_checkpoint
from microforge.data.image_source import ImageSource
from microforge.errors import CheckpointError
from microforge.spec import preset
from microforge.training.engine.distributed import Processes
from microforge.training.engine.state import RunIdentity
from microforge.training.runs.data_report import open_data
from microforge.training.runs.execution import launched, run_plan
from microforge.training.runs.memory_estimate import MemoryEstimate, estimate
from microforge.training.runs.plan import StagePlan, plan_stage, spread_over
from microforge.training.runs.request import DEFAULT_CONFIG, TrainRequest
from microforge.training.runs.results import RunResult
from microforge.training.runs.run_folder import check_run_folder
from microforge.training.runs.stage_builders import StageInputs, build_stage
from microforge.training.runs.starting_weights import (
    StartingWeights,
    find_starting_weights,
    open_checkpoint,
    resolve_plan,
)
from microforge.training.stages.flow import same_tokenizer


def run_stage(request: TrainRequest) -> RunResult:
    """Train one stage.

    Raises:
        MicroForgeError: SpecError, DataError, CheckpointError, OutputExistsError or MissingExtraError for options that
            cannot work; nothing is written then. DivergenceError when training diverges.
    """
    plan, init = _plan(request, estimate=False)
    console = Console(stderr=True)
    weights = find_starting_weights(request, plan, init)
    plan = resolve_plan(plan, weights)
    check_run_folder(plan.folder, identity(plan, weights), request.loop.resume, request.loop.force)
    if request.loop.resume:
        check_tokenizer(plan, weights)
    spread_over(plan, 1, plan.loop.device)  # refuse a batch that does not divide before waiting for others
    with launched(plan.loop.device, request.loop.threads) as processes:
        source = open_data(request.data, request.out, console, processes)
        return train_stage(plan, weights, source, request.loop.force, console, processes)


def estimate_stage(request: TrainRequest) -> MemoryEstimate:
    """What ``run_stage`` would need, without training: parameters and memory.

    Raises:
        SpecError, CheckpointError, MissingExtraError: for options that cannot work.
    """
    plan, _ = _plan(request, estimate=True)
    teacher = request.options.teacher
    spec = None if teacher is None else open_checkpoint(teacher).spec
    return estimate(spread_over(plan, 1, plan.loop.device), spec)


def _plan(request: TrainRequest, estimate: bool) -> tuple[StagePlan, Checkpoint | None]:
    """The plan of a request, and the checkpoint of ``--init``."""
    options = request.options
    init = None if options.init is None else open_checkpoint(options.init)
    spec = preset(options.config or (DEFAULT_CONFIG if init is None else init.spec.name))
    native_size = (spec if init is None else init.spec).native_size
    return plan_stage(request, spec, native_size, estimate), init


def train_stage(
    plan: StagePlan,
    weights: StartingWeights,
    source: ImageSource,
    force: bool,
    console: Console,
    processes: Processes,
) -> RunResult:
    """Build the stage and train it to its last step; ``check_run_folder`` has accepted the folder."""
    plan = spread_over(plan, processes.count, processes.device)
    with processes.main_first():
        stage = build_stage(StageInputs(plan, weights, source, console))
    loss = run_plan(plan, stage, identity(plan, weights), source, force, console, processes)
    return RunResult(plan.checkpoint, plan.settings.steps, loss)


def check_tokenizer(plan: StagePlan, weights: StartingWeights) -> None:
    """Check that a resumed flow keeps the tokenizer that its text encoder was trained with.

    Raises:
        CheckpointError: when its last checkpoint has another one.
    """
    path = plan.tokenizer or (None if weights.vae is None else weights.vae.tokenizer)
    if plan.stage != "flow" or path is None or not (plan.checkpoint / CONFIG).is_file():
        return
    trained = read_checkpoint(plan.checkpoint).tokenizer
    if trained is not None and not same_tokenizer(trained, path):
        raise CheckpointError(
            f"{plan.folder} was trained with another tokenizer than {path}; repeat its --set tokenizer=FILE"
        )


def identity(plan: StagePlan, weights: StartingWeights) -> RunIdentity:
    """What a state on disk must agree with to be resumed."""
    return RunIdentity(
        plan.name,
        plan.spec.name,
        plan.loop.seed,
        weights.encoder,
        plan.settings.optimizer.kind,
        plan.data.label,
    )
