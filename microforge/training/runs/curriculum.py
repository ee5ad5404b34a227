"""A curriculum (SPEC section 4) as a typed file: a list of phases, each one run of a stage.

Each ``[[phase]]`` names a stage and a size and overrides the stage's preset key by key::

    config = "tiny"

    [[phase]]
    stage = "vae"
    size = "128"
    steps = 35_000
    [phase.optimizer]
    learning_rate = 1e-3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microforge.errors import SpecError
from microforge.io.option_rules import check_places
from microforge.io.settings_file import check_keys, pick_values, read_toml
from microforge.spec import from_dict, parse_size, preset
from microforge.training.presets import preset_settings
from microforge.training.runs.plan import stage_settings
from microforge.training.settings import (
    CONTINUED_STAGES,
    DENOISER_STAGES,
    TEACHER_STAGES,
    StageSettings,
)

#: Folder of the shipped curricula, CONFIG.toml each.
CURRICULA = Path(__file__).parents[1] / "curricula"
#: Key of a phase -> the stages that it belongs to.
PLACES = {"decoder_only": ("vae",), "teacher": TEACHER_STAGES}


@dataclass(frozen=True)
class PhaseHead:
    """What a phase states beside its stage's settings."""

    stage: str
    size: str  # as --size
    decoder_only: bool = False  # vae: train the decoder alone, on the latents of the previous phase
    init: str = ""  # a checkpoint to start from instead of the previous phase
    teacher: str = ""  # as --teacher
    accumulate: int = 1
    checkpoint_blocks: bool = False
    compile: bool = True  # all but vae: whether the option compile applies to this phase
    minutes: float | None = None  # instead of steps


@dataclass(frozen=True)
class Phase:
    """One run of a curriculum."""

    name: str  # of its folder
    head: PhaseHead
    size: tuple[int, int]
    settings: StageSettings


@dataclass(frozen=True)
class Curriculum:
    """A configuration and its phases, in order."""

    config: str
    phases: tuple[Phase, ...]


def read_curriculum(path: Path) -> Curriculum:
    """Read and check a curriculum file.

    Raises:
        SpecError: for a file that is missing, not TOML, or has an unknown or impossible key, which is named by its path.
    """
    values = read_toml(path, "the curriculum")
    unknown = sorted(set(values) - {"config", "phase"})
    if unknown:
        raise SpecError(f"{path.name} has an unknown key {unknown[0]!r}; allowed: config, phase")
    config, phases = values.get("config"), values.get("phase")
    if not isinstance(config, str):
        raise SpecError(f"{path.name} needs config, the name of a configuration")
    preset(config)
    if not isinstance(phases, list) or not phases:
        raise SpecError(f"{path.name} needs at least one [[phase]]")
    read = tuple(
        _read_phase(phase, config, index, f"{path.name}: phase[{index}]")
        for index, phase in enumerate(phases)
    )
    _check_order(read, path.name)
    return Curriculum(config, read)


def _read_phase(values: object, config: str, index: int, where: str) -> Phase:
    if not isinstance(values, dict):
        raise SpecError(f"{where} must be a table of settings, got {type(values).__name__}")
    head_values = pick_values(PhaseHead, values)
    head = from_dict(PhaseHead, head_values, where)
    others = {key: value for key, value in values.items() if key not in head_values}
    try:
        settings = _read_settings(head.stage, config, others, where)
        height, width = parse_size(head.size, preset(config).vae.downsample)
        check_places("the stage", head.stage, {key: getattr(head, key) or None for key in PLACES}, PLACES)
        if head.stage == "kd" and not head.teacher:
            raise SpecError("the stage kd needs a teacher")
    except SpecError as error:
        message = str(error)
        raise SpecError(message if message.startswith(where) else f"{where}: {message}") from None
    part = "vae-decoder" if head.decoder_only else head.stage
    side = f"{height}" if height == width else f"{height}x{width}"
    return Phase(f"{index + 1}-{part}-{side}", head, (height, width), settings)


def _read_settings(stage: str, config: str, values: dict[str, Any], where: str) -> StageSettings:
    """The stage's preset with ``values``."""
    check_keys(values, (PhaseHead, type(preset_settings(stage, config))), where)
    return stage_settings(stage, config, values, where)


def _check_order(phases: Sequence[Phase], name: str) -> None:
    """Check that all vae phases come first, since a flow is trained on the latents of one VAE, and nothing lacks weights.

    Raises:
        SpecError: names the first phase that cannot run.
    """
    stages = [phase.head.stage for phase in phases]
    for index, (stage, phase) in enumerate(zip(stages, phases, strict=True)):
        earlier = set(stages[:index])
        if stage == "vae" and earlier & set(DENOISER_STAGES):
            raise SpecError(
                f"{name}: phase[{index}] trains the VAE after a flow was trained on its latents; put it first"
            )
        needs_vae = phase.head.decoder_only or stage in DENOISER_STAGES
        if stage in CONTINUED_STAGES and not phase.head.init and not {"flow", "kd"} & earlier:
            raise SpecError(
                f"{name}: phase[{index}] needs the weights of a flow: put a flow phase before it, or give it an init"
            )
        if needs_vae and not phase.head.init and index == 0:
            raise SpecError(f"{name}: phase[0] needs a VAE: put a vae phase before it, or give it an init")
