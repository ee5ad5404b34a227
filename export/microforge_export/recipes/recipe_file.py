"""INT8 recipes as TOML files: reading with checks, and writing."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from microforge.bundle.manifest import Role
from microforge.bundle.targets import TargetName
from microforge.errors import SpecError
from microforge.io.user_file import parse_toml, read_user_text
from microforge_export.recipes.int8_recipe import (
    SCHEMES,
    Calibration,
    Host,
    Int8Limits,
    Int8Recipe,
    MeasuredCandidate,
    Preference,
    Scheme,
)

_NAME = re.compile(r"[A-Za-z0-9_.*@+-]+( [A-Za-z0-9_.*@+-]+)*")
_HINT = "mf-export tune writes a valid recipe"


def read_recipe(path: Path) -> Int8Recipe:
    """Read the recipe in the TOML file ``path``.

    Raises:
        SpecError: if the file cannot be read, has an unknown key or value, or lacks a required one.
    """
    try:
        text = read_user_text(path)
    except OSError as error:
        raise SpecError(f"recipe {path} cannot be read ({error}); {_HINT}") from None
    return parse_recipe(text, str(path))


def parse_recipe(text: str, source: str = "recipe") -> Int8Recipe:
    """Parse the recipe in TOML ``text``; error messages begin with ``source``.

    Raises:
        SpecError: as ``read_recipe``.
    """
    try:
        table = parse_toml(text)
    except ValueError as error:
        raise SpecError(f"{source} is not TOML ({error}); {_HINT}") from None
    known = {item.name for item in fields(Int8Recipe)}
    _check_keys(table, known, {"model", "target", "host", "schemes"}, source)
    target = typing.cast(
        TargetName, _choice(table["target"], typing.get_args(TargetName), f"{source}: target")
    )
    prefer = _choice(table.get("prefer", "speed"), typing.get_args(Preference), f"{source}: prefer")
    candidates = table.get("candidates", [])
    if not isinstance(candidates, list):
        raise SpecError(f"{source}: candidates must be a list of tables; {_HINT}")
    return Int8Recipe(
        model=_name(table["model"], f"{source}: model"),
        target=target,
        prefer=typing.cast(Preference, prefer),
        note=check_note(table.get("note", ""), f"{source}: note"),
        host=_record(Host, table["host"], f"{source}: host"),
        limits=_record(Int8Limits, table.get("limits", {}), f"{source}: limits"),
        calibration=_record(Calibration, table.get("calibration", {}), f"{source}: calibration"),
        schemes=_schemes(table["schemes"], target, f"{source}: schemes"),
        candidates=tuple(
            _record(MeasuredCandidate, item, f"{source}: candidates[{index}]")
            for index, item in enumerate(candidates)
        ),
    )


def render_recipe(recipe: Int8Recipe) -> str:
    """TOML text that ``parse_recipe`` reads back to an equal recipe; groups and candidates keep their order."""
    lines = ["# Written by mf-export tune; mf-export build --precision int8 applies it.", ""]
    lines += [f"{name} = {_toml(getattr(recipe, name))}" for name in ("model", "target", "prefer", "note")]
    for title in ("host", "limits", "calibration"):
        lines += ["", f"[{title}]", *_toml_fields(getattr(recipe, title))]
    lines += ["", "[schemes]"]
    for role, groups in recipe.schemes.items():
        assignments = (f"{_toml(name)} = {_toml(value)}" for name, value in groups.items())
        lines += ["", f"[schemes.{role}]", *assignments]
    for candidate in recipe.candidates:
        lines += ["", "[[candidates]]", *_toml_fields(candidate)]
    return "\n".join(lines) + "\n"


def check_note(value: object, where: str = "note") -> str:
    """``value``, if it can be the note of a recipe.

    Raises:
        SpecError: otherwise.
    """
    if not isinstance(value, str) or not value.isprintable() or set(value) & set('"\\'):
        raise SpecError(f"{where} is {value!r}; a note is one line without quotes and backslashes")
    return value


def _toml_fields(record: Host | Int8Limits | Calibration | MeasuredCandidate) -> list[str]:
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
        raise SpecError(f"{where} must be a table; {_HINT}")
    hints = typing.get_type_hints(kind)
    # A field without a default is required; ``hasattr`` on the class is true exactly for fields with one.
    _check_keys(table, set(hints), {name for name in hints if not hasattr(kind, name)}, where)
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in table.items()})


def _value(hint: object, value: object, where: str) -> typing.Any:
    """``value``, if it has the type ``hint``; an integer is accepted as a float."""
    if hint is str:
        return _name(value, where)
    if hint == tuple[str, ...] and isinstance(value, list):
        return tuple(_name(item, where) for item in value)
    if hint in (bool, int, float):
        return _number(hint, value, where)
    if typing.get_args(hint) and hint != tuple[str, ...]:  # one Literal, or several
        return _choice(value, tuple(_literals(hint)), where)
    raise SpecError(f"{where} is {value!r}, which is not a list of names; {_HINT}")


def _number(hint: object, value: object, where: str) -> bool | int | float:
    boolean = isinstance(value, bool)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not boolean and value >= 0:
        return value
    if hint is float and isinstance(value, int | float) and not boolean and abs(float(value)) < float("inf"):
        return float(value)
    kind = {bool: "true or false", int: "a whole number", float: "a finite number"}[typing.cast(type, hint)]
    raise SpecError(f"{where} is {value!r}, which is not {kind}; {_HINT}")


def _literals(hint: object) -> Iterator[str]:
    for item in typing.get_args(hint):
        if isinstance(item, str):
            yield item
        else:
            yield from _literals(item)


def _schemes(table: object, target: TargetName, where: str) -> dict[Role, dict[str, Scheme]]:
    if not isinstance(table, dict) or not all(isinstance(groups, dict) for groups in table.values()):
        raise SpecError(f"{where} must hold a table per component; {_HINT}")
    return {
        _name(role, where): {
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


def _choice(value: object, allowed: tuple[str, ...], where: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise SpecError(f"{where} is {value!r}; allowed: {', '.join(allowed)}")
    return value


def _check_keys(table: Mapping[str, object], known: set[str], required: set[str], where: str) -> None:
    """Refuse unknown keys, and the lack of a required key."""
    for key in table:
        if key not in known:
            raise SpecError(f"{where} has an unknown key {key!r}; known: {', '.join(sorted(known))}")
    for key in sorted(required):
        if key not in table:
            raise SpecError(f"{where} lacks {key!r}; {_HINT}")
