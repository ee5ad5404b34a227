"""How a model is made INT8 for one target: a typed recipe, read from TOML and written as TOML.

A recipe names a scheme per component role and operator group (``operator_groups``); the group ``*`` stands
for all that are not named, and what remains is in floating point. It carries the limits that the result must
reach, the table of measurements that it was chosen from, and the host they were made on. ``mf-export tune``
writes one; a build applies one.
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from microforge.bundle.manifest import Role
from microforge.bundle.targets import Precision, TargetName
from microforge.errors import SpecError

#: ``weight-only``: int8 per channel, computed in floating point. ``dynamic``: 8-bit activations scaled at each
#: run. ``static``: 8-bit activations with calibrated ranges. ``linear8``: int8 weights per channel.
#: ``palettize6``, ``palettize4``: weights as indices of 6 or 4 bits into a table. The rest is floating point.
Scheme = Literal[
    "fp32", "fp16", "weight-only", "dynamic", "static", "linear8", "palettize6", "palettize4"
]  # fmt: skip
#: Of a measured candidate; ``mixed`` is what was chosen group by group, together.
CandidateScheme = Scheme | Literal["mixed"]
#: What each target's groups can have: its floating point, then from the most to the least precise.
SCHEMES: Mapping[TargetName, tuple[Scheme, ...]] = {
    "onnx": ("fp32", "weight-only", "dynamic", "static"),
    "executorch": ("fp32", "weight-only", "dynamic", "static"),
    "coreml": ("fp16", "linear8", "palettize6", "palettize4"),
}
#: The group that stands for all those that a component's table does not name.
OTHERS = "*"
Preference = Literal["speed", "size"]
_NAME = re.compile(r"[A-Za-z0-9_.*@+-]+( [A-Za-z0-9_.*@+-]+)*")
_WHERE = "mf-export tune writes a valid recipe"


@dataclass(frozen=True, kw_only=True)
class Int8Limits:
    """What an INT8 target must reach against torch in fp32; below any of them nothing is written."""

    component_psnr_db: float = 20.0  # worst output of a component, over its recorded inputs
    images: int = 32  # whole drawings, prompt and seed each, that the next two are taken over
    image_psnr_median_db: float = 30.0  # from the same noise
    image_psnr_worst_db: float = 24.0
    guidance_norm_ratio_low: float = 0.9  # norm of (v_cond - v_empty), artefact / torch
    guidance_norm_ratio_high: float = 1.1
    relative_state_error: float = 0.25  # |plan - reference| / |reference| after the last step


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What static ranges are taken from: a build repeats it, so its files do not depend on anything else."""

    samples: int = 8  # captions of the built-in grammar, drawn with torch
    inputs: int = 32  # evaluations per component, spread over all drawings and steps


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where the times of a recipe's table were taken."""

    machine: str  # as platform.machine() says
    instructions: tuple[str, ...]  # vector extensions that int8 kernels use
    threads: int


@dataclass(frozen=True, kw_only=True)
class MeasuredCandidate:
    """One measured candidate: ``scheme`` for one ``group`` of a component, everything else in floating point.

    The scheme ``mixed`` is what was chosen group by group, together: the row that decides whether the
    component is quantized at all.
    """

    component: Role
    group: str  # "all" for every group together
    scheme: CandidateScheme
    psnr_db: float
    milliseconds: float  # of one evaluation of the component, the least of many; 0 where it was not timed
    fp32_milliseconds: float  # of the same runs, interleaved
    bytes: int  # of the component's constants
    fp32_bytes: int
    chosen: bool = False


@dataclass(frozen=True, kw_only=True)
class Int8Recipe:
    """The choice for one model on one target. ``schemes``: role -> operator group -> scheme."""

    model: str
    target: TargetName
    prefer: Preference = "speed"  # what a component had to gain to be quantized
    note: str = ""  # about the measurements, for people
    host: Host
    limits: Int8Limits = field(default_factory=Int8Limits)
    calibration: Calibration = field(default_factory=Calibration)
    schemes: Mapping[Role, Mapping[str, Scheme]]
    rows: tuple[MeasuredCandidate, ...] = ()


def float_scheme(target: TargetName) -> Scheme:
    """What a group of ``target`` is when nothing is quantized."""
    return SCHEMES[target][0]


def resolve(
    schemes: Mapping[str, Scheme], groups: Mapping[str, Sequence[Scheme]], target: TargetName
) -> dict[str, Scheme]:
    """Group -> scheme for every group of a component, ``*`` filled in.

    Args:
        schemes: of one role of a recipe.
        groups: of the component, each with the schemes that its operator can have. A group that cannot have
            the scheme of ``*`` gets the next more precise one that it can.

    Raises:
        SpecError: for a group that the component has not, or a scheme that its operator cannot have.
    """
    plain, rest = float_scheme(target), schemes.get(OTHERS)
    chosen = {
        group: plain if rest is None else fitting(rest, allowed, target) for group, allowed in groups.items()
    }
    for group, scheme in schemes.items():
        if group == OTHERS:
            continue
        if group not in groups:
            raise SpecError(
                f"the recipe names an operator group {group!r}; this model has: {', '.join(groups)}"
            )
        if scheme != plain and scheme not in groups[group]:
            options = ", ".join((plain, *groups[group]))
            raise SpecError(f"operator group {group!r} cannot be {scheme!r}; allowed: {options}")
        chosen[group] = scheme
    return chosen


def fitting(scheme: Scheme, allowed: Sequence[Scheme], target: TargetName) -> Scheme:
    """``scheme`` where it is allowed, else the next more precise one that is; floating point always is."""
    order = SCHEMES[target]
    at_least = order[1 : order.index(scheme) + 1]
    return next((item for item in reversed(at_least) if item in allowed), order[0])


def safer(scheme: Scheme, allowed: Sequence[Scheme], target: TargetName) -> Scheme:
    """The next scheme that is more precise than ``scheme`` and allowed."""
    order = SCHEMES[target]
    return fitting(order[max(order.index(scheme) - 1, 0)], allowed, target)


def role_schemes(recipe: Int8Recipe, role: Role) -> Mapping[str, Scheme]:
    """The schemes of a component; the edit layout of a denoiser, which has its weights, takes the denoiser's."""
    return recipe.schemes.get(role, recipe.schemes.get("denoiser", {}) if role == "denoiser_edit" else {})


def component_precision(recipe: Int8Recipe, role: Role) -> Precision:
    """``int8`` where any group of the component is quantized, else the target's floating point."""
    plain = float_scheme(recipe.target)
    quantized = any(scheme != plain for scheme in role_schemes(recipe, role).values())
    return "int8" if quantized else "fp16" if plain == "fp16" else "fp32"


def read_recipe(path: Path) -> Int8Recipe:
    """The recipe in the TOML file ``path``.

    Raises:
        SpecError: when it cannot be read, holds an unknown name or value, or lacks one.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"recipe {path} cannot be read ({error}); {_WHERE}") from None
    return parse_recipe(text, str(path))


def parse_recipe(text: str, source: str = "recipe") -> Int8Recipe:
    """The recipe in TOML ``text``; errors, as ``read_recipe``'s, begin with ``source``."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source} is not TOML ({error}); {_WHERE}") from None
    known = {item.name for item in fields(Int8Recipe)}
    _only(table, known, {"model", "target", "host", "schemes"}, source)
    target = typing.cast(
        TargetName, _choice(table["target"], typing.get_args(TargetName), f"{source}: target")
    )
    prefer = _choice(table.get("prefer", "speed"), typing.get_args(Preference), f"{source}: prefer")
    rows = table.get("rows", [])
    if not isinstance(rows, list):
        raise SpecError(f"{source}: rows must be a list of tables; {_WHERE}")
    return Int8Recipe(
        model=_name(table["model"], f"{source}: model"),
        target=target,
        prefer=typing.cast(Preference, prefer),
        note=check_note(table.get("note", ""), f"{source}: note"),
        host=_record(Host, table["host"], f"{source}: host"),
        limits=_record(Int8Limits, table.get("limits", {}), f"{source}: limits"),
        calibration=_record(Calibration, table.get("calibration", {}), f"{source}: calibration"),
        schemes=_schemes(table["schemes"], target, f"{source}: schemes"),
        rows=tuple(
            _record(MeasuredCandidate, row, f"{source}: rows[{index}]") for index, row in enumerate(rows)
        ),
    )


def render_recipe(recipe: Int8Recipe) -> str:
    """TOML that ``parse_recipe`` reads back to an equal recipe; groups and rows keep their order."""
    lines = ["# Written by mf-export tune; mf-export build --precision int8 applies it.", ""]
    lines += [f"{name} = {_toml(getattr(recipe, name))}" for name in ("model", "target", "prefer", "note")]
    for title in ("host", "limits", "calibration"):
        lines += ["", f"[{title}]", *_fields(getattr(recipe, title))]
    lines += ["", "[schemes]"]
    for role, groups in recipe.schemes.items():
        lines += [
            "",
            f"[schemes.{role}]",
            *(f"{_toml(name)} = {_toml(value)}" for name, value in groups.items()),
        ]
    for row in recipe.rows:
        lines += ["", "[[rows]]", *_fields(row)]
    return "\n".join(lines) + "\n"


def _fields(record: Host | Int8Limits | Calibration | MeasuredCandidate) -> list[str]:
    return [f"{item.name} = {_toml(getattr(record, item.name))}" for item in fields(record)]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)  # names hold no character to escape


RecordT = typing.TypeVar("RecordT", Host, Int8Limits, Calibration, MeasuredCandidate)


def _record(kind: type[RecordT], table: object, where: str) -> RecordT:
    """A dataclass of plain values from a TOML table."""
    if not isinstance(table, dict):
        raise SpecError(f"{where} must be a table; {_WHERE}")
    hints = typing.get_type_hints(kind)
    # A field without a default is needed; ``hasattr`` on the class is true exactly for those with one.
    _only(table, set(hints), {name for name in hints if not hasattr(kind, name)}, where)
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in table.items()})


def _value(hint: object, value: object, where: str) -> typing.Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        if number - number == 0.0:  # neither infinite nor NaN
            return number
    elif hint is int and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    elif hint is bool and isinstance(value, bool):
        return value
    elif hint is str:
        return _name(value, where)
    elif hint == tuple[str, ...] and isinstance(value, list):
        return tuple(_name(item, where) for item in value)
    elif typing.get_args(hint):  # one Literal, or several
        return _choice(value, tuple(_literals(hint)), where)
    raise SpecError(f"{where} is {value!r}, which is not {getattr(hint, '__name__', hint)}; {_WHERE}")


def _literals(hint: object) -> Iterator[str]:
    for item in typing.get_args(hint):
        if isinstance(item, str):
            yield item
        else:
            yield from _literals(item)


def _schemes(table: object, target: TargetName, where: str) -> dict[Role, dict[str, Scheme]]:
    if not isinstance(table, dict) or not all(isinstance(groups, dict) for groups in table.values()):
        raise SpecError(f"{where} must hold a table per component; {_WHERE}")
    return {
        typing.cast(Role, _choice(role, typing.get_args(Role), where)): {
            _name(group, where): typing.cast(
                Scheme, _choice(scheme, SCHEMES[target], f"{where}.{role}.{group}")
            )
            for group, scheme in groups.items()
        }
        for role, groups in table.items()
    }


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise SpecError(f"{where} is {value!r}; names have letters, digits, single spaces and _ . * @ + -")
    return value


def check_note(value: object, where: str = "note") -> str:
    """``value`` when it can be a recipe's note.

    Raises:
        SpecError: otherwise.
    """
    if not isinstance(value, str) or not value.isprintable() or set(value) & set('"\\'):
        raise SpecError(f"{where} is {value!r}; a note is one line without quotes and backslashes")
    return value


def _choice(value: object, allowed: tuple[str, ...], where: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise SpecError(f"{where} is {value!r}; allowed: {', '.join(allowed)}")
    return value


def _only(table: Mapping[str, object], known: set[str], needed: set[str], where: str) -> None:
    """Refuse keys that do not exist and the lack of one that must."""
    for key in table:
        if key not in known:
            raise SpecError(f"{where} has an unknown key {key!r}; known: {', '.join(sorted(known))}")
    for key in sorted(needed):
        if key not in table:
            raise SpecError(f"{where} lacks {key!r}; {_WHERE}")
