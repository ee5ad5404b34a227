"""The options of one ``mf-train`` call, from flags, a settings file and ``--set``.

A settings key is a field of ``StageOptions``, ``DataOptions``, ``LoopOptions`` or of the settings of the stage. Values come
from the preset, then the file, then ``--set`` and the flags.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from microforge.errors import SpecError
from microforge.io.option_rules import check_exclusive, check_places, is_given
from microforge.io.settings_file import (
    SettingNote,
    check_keys,
    overlaid,
    parse_assignments,
    pick_values,
    read_toml,
    setting_notes,
    setting_types,
    with_values,
)
from microforge.spec import preset
from microforge.training.loop_options import DataOptions, LoopOptions
from microforge.training.presets import preset_settings
from microforge.training.settings import (
    DENOISER_STAGES,
    TEACHER_STAGES,
    EditSettings,
    FlowSettings,
    KDSettings,
    RewardSettings,
    RewriteSettings,
    TrainingSettings,
    VAESettings,
)

#: The configuration when neither ``--config`` nor ``--init`` names one.
DEFAULT_CONFIG = "tiny"
#: The name of the whole curriculum in the place of a stage.
ALL = "all"
STAGE_SETTINGS: Mapping[str, type[TrainingSettings]] = types.MappingProxyType(
    {
        "vae": VAESettings,
        "flow": FlowSettings,
        "kd": KDSettings,
        "edit": EditSettings,
        "reward": RewardSettings,
        "rewrite": RewriteSettings,
    }
)
#: Options that a curriculum states per phase.
SINGLE_STAGE = ("init", "teacher", "size", "decoder_only", "minutes")
#: Fields of LoopOptions that belong on the command line and not into a file.
FLAGS_ONLY = ("resume", "force")


@dataclass(frozen=True)
class StageOptions:
    """What a single stage trains and starts from; None leaves a choice to the program."""

    config: str | None = None  # nano, tiny, small or base; that of init, else tiny
    init: str | None = None  # checkpoint with the starting weights: a folder, or pretrained
    teacher: str | None = None  # checkpoint of a teacher; see --help
    size: str | None = None  # height x width in pixels
    tokenizer: str | None = None  # vae, flow: tokenizer.json of a new text encoder (mf-data tokenizer)
    decoder_only: bool = False  # vae: fine-tune the finished decoder, and leave the latents unchanged


@dataclass(frozen=True)
class TrainRequest:
    """The options of one ``mf-train`` call, typed but not yet checked against each other."""

    stage: str
    out: Path
    options: StageOptions = field(default_factory=StageOptions)
    data: DataOptions = field(default_factory=DataOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)
    settings: Mapping[str, Any] = field(default_factory=dict)  # changes of the stage's preset
    curriculum: Path | None = None  # all: a file of phases instead of the shipped one


def setting_keys(*kinds: type) -> dict[str, Any]:
    """Settings key -> type, for ``--set`` and for files."""
    keys: dict[str, Any] = {}
    for kind in kinds:
        keys |= setting_types(kind)
    return {key: hint for key, hint in keys.items() if key not in FLAGS_ONLY}


def stage_notes(stage: str, config: str | None = None) -> list[SettingNote]:
    """Every settings key of ``mf-train STAGE`` with its default for a configuration.

    Raises:
        SpecError: for an unknown configuration.
    """
    instances: list[object] = [StageOptions(), DataOptions(), LoopOptions()]
    if stage != ALL:
        instances.insert(0, preset_settings(stage, preset(config or DEFAULT_CONFIG).name))
    keys = set(stage_keys(stage))
    return [note for instance in instances for note in setting_notes(instance) if note.key in keys]


def stage_keys(stage: str) -> list[str]:
    """The settings keys that belong to ``mf-train STAGE``."""
    if stage == ALL:
        keys = setting_keys(StageOptions, DataOptions, LoopOptions)
        return [key for key in keys if key not in SINGLE_STAGE]
    keys = setting_keys(STAGE_SETTINGS[stage], StageOptions, DataOptions, LoopOptions)
    return [key for key in keys if stage in PLACES.get(key.split(".")[0], (stage,))]


def _places() -> dict[str, tuple[str, ...]]:
    """Option -> the stages that it belongs to, where that is not all of them."""
    places: dict[str, tuple[str, ...]] = {}
    for stage, kind in STAGE_SETTINGS.items():
        for item in fields(kind):
            places[item.name] = (*places.get(item.name, ()), stage)
    special = {
        "decoder_only": ("vae",),
        "teacher": TEACHER_STAGES,
        "compile": DENOISER_STAGES,
        "edits": ("edit",),
        "tokenizer": ("vae", "flow"),
    }
    return places | special


PLACES: Mapping[str, tuple[str, ...]] = types.MappingProxyType(_places())
#: Pairs of options that exclude each other, and why.
EXCLUSIVE = (("steps", "minutes", "both set the length of the run"),)


def train_request(
    stage: str,
    out: Path,
    flags: Mapping[str, Any],
    file: Path | None = None,
    assignments: Sequence[str] = (),
) -> TrainRequest:
    """The request of a command line.

    Args:
        stage: A stage, or ``ALL``.
        out: The run's folder.
        flags: Settings key -> value of the options that have a flag; None stands for an option that was left out.
        file: ``--settings``: settings of a stage, or the curriculum of ``ALL``.
        assignments: The texts of ``--set``.

    Raises:
        SpecError: for an unknown key, a value of another type, or an option that does not belong to the stage.
    """
    everything = setting_keys(StageOptions, DataOptions, LoopOptions, *STAGE_SETTINGS.values())
    chosen = parse_assignments(assignments, everything, stage_keys(stage))
    for key, value in flags.items():
        if is_given(value):
            if key in chosen:
                raise SpecError(f"{key} is given by a flag and by --set; give it once")
            chosen[key] = value
    curriculum = file if stage == ALL else None
    values = overlaid({} if stage == ALL or file is None else _read_settings(file), chosen)
    groups = [pick_values(kind, values) for kind in (StageOptions, DataOptions, LoopOptions)]
    request = TrainRequest(
        stage,
        out,
        with_values(StageOptions(), groups[0], "settings"),
        with_values(DataOptions(), groups[1], "settings"),
        with_values(LoopOptions(), groups[2], "settings"),
        {key: value for key, value in values.items() if not any(key in group for group in groups)},
        curriculum,
    )
    check_curriculum_options(request) if stage == ALL else check_stage_options(request)
    return request


def _read_settings(file: Path) -> dict[str, Any]:
    """The values of a stage's settings file, of any stage."""
    values = read_toml(file)
    if "phase" in values:
        raise SpecError(f"{file} is a curriculum; run it with mf-train all --settings {file}")
    kinds = (StageOptions, DataOptions, LoopOptions, *STAGE_SETTINGS.values())
    for key in FLAGS_ONLY:
        if key in values:
            raise SpecError(f"{file}: {key} does not belong into a file; give --{key}")
    check_keys(values, kinds, file.name)
    return values


def check_stage_options(request: TrainRequest) -> None:
    """Refuse options that do not belong to the stage, or exclude each other.

    Raises:
        SpecError: names the option and where it belongs.
    """
    options: dict[str, object] = {
        "decoder_only": request.options.decoder_only,
        "teacher": request.options.teacher,
        "compile": request.loop.compile,
        "edits": request.data.edits,
        "tokenizer": request.options.tokenizer,
        "minutes": request.loop.minutes,
        **request.settings,
    }
    check_places("the stage", request.stage, options, PLACES)
    check_exclusive(options, EXCLUSIVE)


def check_curriculum_options(request: TrainRequest) -> None:
    """Refuse options of a single stage: a curriculum states them per phase.

    Raises:
        SpecError: names the option.
    """
    options = {
        name: getattr(request.loop if name == "minutes" else request.options, name) for name in SINGLE_STAGE
    }
    for option, value in {**options, **request.settings}.items():
        if is_given(value):
            raise SpecError(
                f"{option} belongs to a single stage; for all, write it into the phases of --settings"
            )
