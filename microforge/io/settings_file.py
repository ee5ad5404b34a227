"""Settings from a TOML file and from ``--set KEY=VALUE``, checked against the dataclasses that hold them. No torch.

A key is a field of one of the dataclasses, or of a dataclass in it: ``batch``, ``optimizer.learning_rate``. Later sources
replace earlier ones key by key: defaults, file, ``--set``.
"""

from __future__ import annotations

import difflib
import inspect
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from microforge.errors import SpecError
from microforge.io.user_file import parse_toml, read_user_text
from microforge.spec import from_dict, to_dict

T = TypeVar("T")
#: A field of a dataclass with a comment behind it.
_FIELD = re.compile(r"^    (\w+): .*?  # (.+)$")


def read_toml(path: Path, what: str = "the settings") -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        SpecError: when it is missing or not TOML.
    """
    try:
        return parse_toml(read_user_text(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise SpecError(f"cannot read {what} {path}: {reason}") from None


def setting_types(kind: type) -> dict[str, Any]:
    """Dotted key -> annotated type, for every field of a dataclass and of the dataclasses in it."""
    types_by_key: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for item in fields(kind):
        hint = hints[item.name]
        if is_dataclass(hint):
            below = setting_types(typing.cast(type, hint))
            types_by_key |= {f"{item.name}.{key}": value for key, value in below.items()}
        else:
            types_by_key[item.name] = hint
    return types_by_key


@dataclass(frozen=True)
class SettingNote:
    """One settings key as a listing shows it."""

    key: str
    type: str
    default: str
    meaning: str


def setting_notes(instance: object, prefix: str = "") -> list[SettingNote]:
    """Every key of a dataclass instance with its type, its value there, and the trailing comment of its field."""
    kind = type(instance)
    hints, comments = typing.get_type_hints(kind), _comments(kind)
    notes = []
    for item in fields(instance):  # type: ignore[arg-type]
        value, key = getattr(instance, item.name), prefix + item.name
        if is_dataclass(value):
            notes += setting_notes(value, f"{key}.")
        else:
            shown = (
                "-"
                if value is None or value == ()
                else str(list(value) if isinstance(value, tuple) else value)
            )
            notes.append(SettingNote(key, type_name(hints[item.name]), shown, comments.get(item.name, "")))
    return notes


def _comments(kind: type) -> dict[str, str]:
    """Field -> the comment behind it in the source of a dataclass, or of one that it derives from."""
    comments: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base):
            continue
        try:
            lines = inspect.getsource(base).splitlines()
        except OSError:  # installed without sources
            continue
        for line in lines:
            if (match := _FIELD.match(line)) is not None:
                comments[match[1]] = match[2]
    return comments


def parse_assignments(
    assignments: Sequence[str],
    known: Mapping[str, Any],
    listed: Collection[str] | None = None,
    option: str = "--set",
) -> dict[str, Any]:
    """``KEY=VALUE`` texts as nested values, each read as the type of its key.

    Args:
        assignments: Values as in TOML; the quotes of a text may be left out.
        known: Dotted key -> type, from ``setting_types``.
        listed: The keys that a message lists; all known ones by default.
        option: How the user gave them, for messages.

    Raises:
        SpecError: for a text without "=", an unknown key, a key that is given twice, or a value of another type.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        key, equals, raw = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise SpecError(f"{option} is {text!r}; write KEY=VALUE")
        if key not in known:
            raise SpecError(unknown_key(option, key, known if listed is None else listed))
        table = values
        *outer, name = key.split(".")
        for part in outer:
            table = table.setdefault(part, {})
        if name in table:
            raise SpecError(f"{option} gives {key} twice")
        table[name] = _parsed(raw, known[key], f"{option} {key}")
    return values


def _parsed(raw: str, hint: Any, where: str) -> Any:
    """``raw`` as a value of the type ``hint``."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    try:
        value = parse_toml(f"value = {raw}")["value"]
    except ValueError:
        value = None
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[0] is str:
        return value if isinstance(value, list) else [part.strip() for part in raw.split(",") if part.strip()]
    if str in options:
        return value if isinstance(value, str) else raw
    if value is None:
        raise SpecError(f"{where} must be {type_name(hint)}, got {raw!r}")
    return value


def type_name(hint: Any) -> str:
    """A type as messages and tables show it: "float", "list of int"."""
    if isinstance(hint, types.UnionType):
        return " or ".join(type_name(kind) for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is tuple:
        return f"list of {type_name(typing.get_args(hint)[0])}"
    return str(getattr(hint, "__name__", hint))


def overlaid(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``changes``, table by table."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = overlaid(typing.cast(dict[str, Any], below), value) if both else value
    return merged


def with_values(instance: T, values: Mapping[str, Any], where: str) -> T:
    """A copy of a dataclass instance with ``values``, nested ones table by table.

    Raises:
        SpecError: for an unknown key, a value of another type, or one that the dataclass refuses.
    """
    return from_dict(type(instance), overlaid(to_dict(instance), values), where)


def pick_values(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` whose key is a field of the dataclass ``kind``."""
    names = {item.name for item in fields(kind)}
    return {key: value for key, value in values.items() if key in names}


def check_keys(values: Mapping[str, Any], kinds: Sequence[type], where: str) -> None:
    """Refuse a key that is a field of none of the dataclasses ``kinds``.

    Raises:
        SpecError: names the key and lists the allowed ones.
    """
    known = [item.name for kind in kinds for item in fields(kind)]
    for key in values:
        if key not in known:
            raise SpecError(unknown_key(where, key, known))


def unknown_key(where: str, key: str, known: Collection[str]) -> str:
    """The message for an unknown key: the nearest known one, if any is near, and all that are allowed."""
    nearest = difflib.get_close_matches(key, known, 1)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    return f"{where} has an unknown key {key!r}{hint}; allowed: {', '.join(known)}"
