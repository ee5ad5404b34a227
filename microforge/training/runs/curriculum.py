"""A curriculum (SPEC section 4) as one typed file: a list of phases, each a run of a stage.

Each ``[[phase]]`` names a stage and a size and, key by key, whatever differs from the stage's preset::

    config = "tiny"

    [[phase]]
    stage = "vae"
    size = "128"
    steps = 35_000
    [phase.optimizer]
    learning_rate = 1e-3
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from microforge.errors import SpecError
from microforge.spec import from_dict, parse_size, preset, to_dict
from microforge.training.runs.plan import check_settings, preset_settings
from microforge.training.settings import DENOISER_STAGES, ON_A_FLOW, TAUGHT, StageSettings

#: The curricula that ship with the package, CONFIG.toml each.
CURRICULA = Path(__file__).parents[1] / "curricula"


@dataclass(frozen=True)
class PhaseHead:
    """What a phase says beside its stage's settings."""

    stage: str
    size: str  # as --size
    decoder_only: bool = False  # vae: its decoder alone, on the latents of the phase before
    init: str = ""  # a checkpoint to start from, instead of the phase before
    teacher: str = ""  # kd: the checkpoint to learn from; edit: whose generation is kept; reward, rewrite: the one that draws
    accumulate: int = 1
    checkpoint_blocks: bool = False
    compile: bool = True  # all but vae: where --compile asks for it
    minutes: float | None = None  # as --minutes, instead of steps


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
        SpecError: for a file that is missing, no TOML, or holds an unknown or impossible key; names it by its path.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"cannot read the curriculum {path}: {error}") from None
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
        _read_phase(values, config, index, f"{path.name}: phase[{index}]")
        for index, values in enumerate(phases)
    )
    _check_order(read, path.name)
    return Curriculum(config, read)


def _read_phase(values: object, config: str, index: int, where: str) -> Phase:
    if not isinstance(values, dict):
        raise SpecError(f"{where} must be a table of settings, got {type(values).__name__}")
    heads = {item.name for item in fields(PhaseHead)}
    head = from_dict(PhaseHead, {key: value for key, value in values.items() if key in heads}, where)
    own = {key: value for key, value in values.items() if key not in heads}
    try:
        settings = _read_settings(head.stage, config, own, where)
        height, width = parse_size(head.size, preset(config).vae.downsample)
    except SpecError as error:
        message = str(error)
        raise SpecError(message if message.startswith(where) else f"{where}: {message}") from None
    if head.decoder_only and head.stage != "vae":
        raise SpecError(f"{where}: decoder_only belongs to the stage vae, not {head.stage}")
    if head.stage == "kd" and not head.teacher:
        raise SpecError(f"{where}: the stage kd needs a teacher")
    if head.teacher and head.stage not in TAUGHT:
        raise SpecError(
            f"{where}: teacher belongs to the stages kd, edit, reward and rewrite, not {head.stage}"
        )
    part = "vae-decoder" if head.decoder_only else head.stage
    side = f"{height}" if height == width else f"{height}x{width}"
    return Phase(f"{index + 1}-{part}-{side}", head, (height, width), settings)


def _read_settings(stage: str, config: str, own: dict[str, object], where: str) -> StageSettings:
    """The stage's preset with the values of ``own``."""
    base = preset_settings(stage, config)
    known = [item.name for kind in (PhaseHead, type(base)) for item in fields(kind)]
    unknown = sorted(set(own) - set(known))
    if unknown:
        raise SpecError(f"{where} has an unknown key {unknown[0]!r}; allowed: {', '.join(known)}")
    return check_settings(stage, from_dict(type(base), _overlaid(to_dict(base), own), where))


def _overlaid(base: dict[str, object], own: dict[str, object]) -> dict[str, object]:
    """``base`` with the values of ``own``, table by table."""
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        merged[key] = (
            _overlaid(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return merged


def _check_order(phases: Sequence[Phase], name: str) -> None:
    """A flow learns the latents of one VAE: all vae phases come first, and a decoder needs an encoder."""
    stages = [phase.head.stage for phase in phases]
    for index, (stage, phase) in enumerate(zip(stages, phases, strict=True)):
        if stage == "vae" and any(before in DENOISER_STAGES for before in stages[:index]):
            raise SpecError(
                f"{name}: phase[{index}] trains the VAE after a flow has learned its latents; put it before"
            )
        lone = phase.head.decoder_only or stage in DENOISER_STAGES
        if stage in ON_A_FLOW and not phase.head.init and not {"flow", "kd"} & set(stages[:index]):
            raise SpecError(
                f"{name}: phase[{index}] needs the weights of a flow: put a flow phase before it, or give it an init"
            )
        if lone and not phase.head.init and index == 0:
            raise SpecError(f"{name}: phase[0] needs a VAE: put a vae phase before it, or give it an init")
