"""The options of one ``mf-export distill`` call, from flags, a settings file and ``--set``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microforge.errors import SpecError
from microforge.io.option_rules import check_places, is_given
from microforge.io.settings_file import (
    SettingNote,
    check_keys,
    overlaid,
    parse_assignments,
    pick_values,
    read_toml,
    setting_notes,
    with_values,
)
from microforge.training.distillation.settings import DistillSettings, distill_preset
from microforge.training.loop_options import DataOptions, LoopOptions
from microforge.training.runs.request import FLAGS_ONLY, setting_keys

#: Options of ``mf-train`` that distillation cannot use.
PLACES = {name: ("mf-train",) for name in ("minutes", "workers", "flip", "random_crop")}


@dataclass(frozen=True)
class DistillOptions:
    """What a student starts from and learns; None leaves a choice to the program."""

    init: str | None = None  # earlier student with the starting weights
    init_teacher: str | None = None  # the teacher of init: start from init plus (new teacher - this teacher)
    delta_scale: float = 1.0  # scale of that weight difference; lower preserves more of the student
    task_teachers: tuple[str, ...] = ()  # TASK=CHECKPOINT each: generate the samples of a task
    filter_samples: bool = False  # learn only from samples that the rule-based detector accepts
    true_targets: tuple[str, ...] = ()  # tasks that learn the data's results, not the teacher's
    size: str | None = None  # height x width in pixels
    cache: str | None = None  # folder of the trajectory cache, to share it between runs


@dataclass(frozen=True)
class DistillRequest:
    """The options of one ``mf-export distill`` call, typed but not yet checked against each other."""

    checkpoint: Path | None
    out: Path | None
    options: DistillOptions = field(default_factory=DistillOptions)
    data: DataOptions = field(default_factory=DataOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)
    settings: Mapping[str, Any] = field(default_factory=dict)  # changes of the preset


_GROUPS = (DistillOptions, DataOptions, LoopOptions, DistillSettings)


def distill_notes(config: str) -> list[SettingNote]:
    """Every settings key of ``mf-export distill`` with its default for a configuration."""
    instances = (distill_preset(config), DistillOptions(), DataOptions(), LoopOptions())
    notes = [note for instance in instances for note in setting_notes(instance)]
    return [note for note in notes if note.key not in PLACES and note.key not in FLAGS_ONLY]


def distill_request(
    checkpoint: Path | None,
    out: Path | None,
    flags: Mapping[str, Any],
    file: Path | None = None,
    assignments: Sequence[str] = (),
) -> DistillRequest:
    """The request of a command line.

    Args:
        checkpoint: The teacher; the shipped one by default.
        out: Where to write the student.
        flags: Settings key -> value of the options that have a flag; None stands for an option that was left out.
        file: ``--settings``.
        assignments: The texts of ``--set``.

    Raises:
        SpecError: for an unknown key, a value of another type, or an option of ``mf-train`` alone.
    """
    keys = setting_keys(*_GROUPS)
    listed = [key for key in keys if key not in PLACES]
    chosen = parse_assignments(assignments, keys, listed)
    for key, value in flags.items():
        if is_given(value):
            if key in chosen:
                raise SpecError(f"{key} is given by a flag and by --set; give it once")
            chosen[key] = value
    stored = {} if file is None else read_toml(file)
    for key in FLAGS_ONLY:
        if key in stored:
            raise SpecError(f"{file}: {key} does not belong into a file; give --{key}")
    check_keys(stored, _GROUPS, "" if file is None else file.name)
    values = overlaid(stored, chosen)
    check_places("the command", "mf-export distill", values, PLACES)
    options, data, loop, settings = (pick_values(kind, values) for kind in _GROUPS)
    return DistillRequest(
        checkpoint,
        out,
        with_values(DistillOptions(), options, "settings"),
        with_values(DataOptions(), data, "settings"),
        with_values(LoopOptions(), loop, "settings"),
        settings,
    )
