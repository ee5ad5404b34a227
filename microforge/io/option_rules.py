"""Rules for command-line options that belong to some tasks only, or exclude each other. No torch.

A command states its rules as a table and checks them all with one call::

    PLACES = {"--crop": ("vae",), "--teacher": ("kd", "edit")}
    check_places("the stage", stage, {"--crop": crop, "--teacher": teacher}, PLACES)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from microforge.errors import SpecError


def check_places(
    kind: str, chosen: str, options: Mapping[str, object], places: Mapping[str, Collection[str]]
) -> None:
    """Refuse an option that was given and does not belong to what the user chose.

    Args:
        kind: What is chosen, as it stands in the message: "the stage", "--task".
        chosen: The stage or task that the user chose.
        options: Option -> its value; None and False count as not given.
        places: Option -> the stages or tasks that it belongs to. An option that is missing here belongs everywhere.

    Raises:
        SpecError: names the option and where it belongs.
    """
    for option, value in options.items():
        allowed = places.get(option)
        if not is_given(value) or allowed is None or chosen in allowed:
            continue
        raise SpecError(f"{option} belongs to {kind_of(kind, allowed)}, not to {chosen}")


def check_exclusive(options: Mapping[str, object], pairs: Sequence[tuple[str, str, str]]) -> None:
    """Refuse two options that exclude each other.

    Args:
        options: Option -> its value; None and False count as not given.
        pairs: (option, other option, the reason) each.

    Raises:
        SpecError: names both options and the reason.
    """
    for first, second, reason in pairs:
        if is_given(options.get(first)) and is_given(options.get(second)):
            raise SpecError(f"{first} and {second} exclude each other: {reason}; give one of them")


def is_given(value: object) -> bool:
    """Whether an option has a value: None and False stand for an option that was left out."""
    return value is not None and value is not False


def kind_of(kind: str, names: Collection[str]) -> str:
    """``kind`` and a list of names as a sentence has it: "the stages vae and flow"."""
    *first, last = names
    listed = f"{', '.join(first)} and {last}" if first else last
    plural = "" if not first or kind.startswith("--") else "s"
    return f"{kind}{plural} {listed}"
