"""The recipe of a bundle: every choice and every threshold of a build, as one value.

``make_recipe`` turns the words of a command line into it and refuses what this version cannot do.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass

from microforge.bundle import Precision, TargetName, Task
from microforge.errors import SpecError

AVAILABLE_TARGETS: tuple[TargetName, ...] = ("onnx",)
AVAILABLE_PRECISIONS: tuple[Precision, ...] = ("fp32",)
AVAILABLE_TASKS: tuple[Task, ...] = ("generate",)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What an artefact must reach; below it nothing is written."""

    component_psnr_db: float  # worst output of every component, over all its inputs
    image_max_diff_255: float  # worst pixel of a whole drawing, in 1/255


THRESHOLDS: dict[Precision, Thresholds] = {"fp32": Thresholds(component_psnr_db=60.0, image_max_diff_255=2.0)}


@dataclass(frozen=True)
class Draw:
    """A prompt and the seed of its noise."""

    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One build. The first of ``draws`` is the golden trajectory and the preview; all of them are checked."""

    target: TargetName
    precision: Precision
    thresholds: Thresholds
    sizes: tuple[
        str, ...
    ]  # each "256" or "256x384" (height x width); empty: the size the model was trained at
    tasks: tuple[Task, ...]
    draws: tuple[Draw, ...]


DRAWS = (
    Draw("a red circle", 0),
    Draw("a blue square on a white background", 1),
    Draw("a green triangle on the left", 2),
)


def make_recipe(
    *, target: str, precision: str, sizes: Sequence[str], tasks: str, draws: tuple[Draw, ...] = DRAWS
) -> Recipe:
    """A recipe from a command line's words.

    Args:
        target, tasks: names, or several with commas between them.

    Raises:
        SpecError: for a name that this version does not have; lists what is available. (Sizes are checked when
            the model is read, against its own factor.)
    """
    targets = tuple(_choice("target", name, AVAILABLE_TARGETS, TargetName) for name in _words(target))
    if len(targets) != 1:
        raise SpecError(f"--target {target!r} must name one of: {', '.join(AVAILABLE_TARGETS)}")
    chosen = _choice("precision", precision, AVAILABLE_PRECISIONS, Precision)
    names = tuple(_choice("task", name, AVAILABLE_TASKS, Task) for name in _words(tasks))
    if not names:
        raise SpecError(f"--tasks must name at least one of: {', '.join(AVAILABLE_TASKS)}")
    return Recipe(
        target=targets[0],
        precision=chosen,
        thresholds=THRESHOLDS[chosen],
        sizes=tuple(sizes),
        tasks=tuple(dict.fromkeys(names)),
        draws=draws,
    )


NameT = typing.TypeVar("NameT", bound=str)


def _choice(what: str, name: str, available: tuple[NameT, ...], known: object) -> NameT:
    for value in available:
        if value == name:
            return value
    verdict = "is not available in this version" if name in typing.get_args(known) else "is unknown"
    raise SpecError(f"{what} {name!r} {verdict}; available: {', '.join(available)}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
