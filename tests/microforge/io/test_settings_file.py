"""Settings from files and ``--set``: typed, layered, and refused in one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.errors import SpecError
from microforge.io.settings_file import (
    check_keys,
    overlaid,
    parse_assignments,
    read_toml,
    setting_notes,
    setting_types,
    with_values,
)


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1  # how fast
    kind: str = "a"


@dataclass(frozen=True)
class Outer:
    steps: int = 3  # how many
    flag: bool = False
    name: str | None = None
    limit: float | None = None
    sides: tuple[int, ...] = (1, 2)
    tasks: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)


KNOWN = setting_types(Outer)


def _set(*texts: str) -> Outer:
    return with_values(Outer(), parse_assignments(texts, KNOWN), "settings")


def test_every_type_is_read_from_its_text() -> None:
    outer = _set(
        "steps=7", "flag=true", "name=128", "limit=2", "sides=[4, 5]", "tasks=edit,inpaint", "inner.rate=1e-3"
    )
    assert outer == Outer(7, True, "128", 2.0, (4, 5), ("edit", "inpaint"), Inner(1e-3))


def test_text_needs_no_quotes_and_may_have_them() -> None:
    assert _set("name=a b=c").name == "a b=c" and _set('name="a"').name == "a"
    assert _set('tasks=["x"]').tasks == ("x",) and _set("inner.kind=muon").inner.kind == "muon"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps", "--set is 'steps'; write KEY=VALUE"),
        (
            "stpes=1",
            "--set has an unknown key 'stpes' .did you mean steps.*; allowed: steps, flag, name, .*inner.rate, inner.kind",
        ),
        ("inner=1", "unknown key 'inner'"),
        ("steps=x", "--set steps must be int, got 'x'"),
        ("steps=1.5", "settings.steps must be int, got 1.5"),
        ("flag=1", "settings.flag must be bool, got 1"),
        ("limit=true", "settings.limit must be float, got True"),
        ("sides=3", "settings.sides must be a list, got 3"),
        ("inner.rate=fast", "--set inner.rate must be float, got 'fast'"),
    ],
)
def test_a_bad_assignment_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        _set(text)
    assert "\n" not in str(caught.value)


def test_a_key_is_given_once() -> None:
    with pytest.raises(SpecError, match=r"--set gives inner\.rate twice"):
        parse_assignments(["inner.rate=1", "inner.rate=2"], KNOWN)


@settings(deadline=None)  # a busy machine takes longer
@given(st.text(max_size=12), st.text(max_size=12))
def test_any_text_is_read_or_refused_with_one_error(key: str, value: str) -> None:
    for text in (f"{key}={value}", *(f"{known}={value}" for known in KNOWN)):
        try:
            _set(text)
        except SpecError:
            continue


def test_later_values_replace_earlier_ones_key_by_key() -> None:
    merged = overlaid({"inner": {"rate": 1.0, "kind": "b"}, "steps": 1}, {"inner": {"rate": 2.0}})
    assert merged == {"inner": {"rate": 2.0, "kind": "b"}, "steps": 1}
    assert with_values(Outer(steps=9), merged, "settings").inner == Inner(2.0, "b")


def test_unknown_keys_of_a_file_are_refused_with_the_allowed_ones() -> None:
    check_keys({"rate": 1.0, "steps": 2}, (Outer, Inner), "mine.toml")
    with pytest.raises(SpecError, match=r"mine\.toml has an unknown key 'x'; allowed: steps, .*rate, kind"):
        check_keys({"x": 1}, (Outer, Inner), "mine.toml")


@pytest.mark.parametrize("content", [None, b"\xff", b"a = [", b"a = 1\na = 2"])
def test_a_file_that_cannot_be_read_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=r"cannot read the settings .*mine\.toml: ") as caught:
        read_toml(path)
    assert "\n" not in str(caught.value)


def test_notes_list_every_key_with_its_value_and_comment() -> None:
    notes = {note.key: note for note in setting_notes(Outer(steps=5))}
    assert list(notes) == list(KNOWN)
    assert (notes["steps"].type, notes["steps"].default, notes["steps"].meaning) == ("int", "5", "how many")
    assert notes["inner.rate"].meaning == "how fast" and notes["name"].default == "-"
    assert notes["sides"].type == "list of int" and notes["limit"].type == "float"


def _depth(values: Any) -> int:
    return 1 + max(map(_depth, values.values()), default=0) if isinstance(values, dict) else 0


def test_assignments_nest_as_their_keys_do() -> None:
    assert _depth(parse_assignments(["inner.rate=1"], KNOWN)) == 2
