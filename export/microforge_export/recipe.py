"""The recipe of a bundle: every choice and every threshold of a build, as one value.

``make_recipe`` turns the words of a command line into it and refuses what this version cannot do.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass

from microforge.bundle import Task
from microforge.bundle_targets import Precision, TargetName
from microforge.errors import SpecError

AVAILABLE_TARGETS: tuple[TargetName, ...] = ("onnx", "executorch", "coreml")
AVAILABLE_PRECISIONS: dict[TargetName, tuple[Precision, ...]] = {
    "onnx": ("fp32",),
    "executorch": ("fp32",),
    "coreml": ("fp32", "fp16"),
}
AVAILABLE_TASKS: tuple[Task, ...] = ("generate",)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What an artefact must reach; below it nothing is written."""

    component_psnr_db: float  # worst output of every component, over all its inputs
    image_max_diff_255: float  # worst pixel of a whole drawing, in 1/255


THRESHOLDS: dict[Precision, Thresholds] = {
    "fp32": Thresholds(component_psnr_db=60.0, image_max_diff_255=2.0),
    "fp16": Thresholds(component_psnr_db=40.0, image_max_diff_255=2.0),
}


@dataclass(frozen=True)
class Draw:
    """A prompt and the seed of its noise."""

    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class TargetRecipe:
    """One engine of a build: how its files are made and what they must reach."""

    name: TargetName
    precision: Precision
    thresholds: Thresholds


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One build. The first of ``draws`` is the golden trajectory; it and the first of ``targets`` make the preview.

    All of ``draws`` are checked on all of ``targets``.
    """

    targets: tuple[TargetRecipe, ...]
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
        precision: of every target.

    Raises:
        SpecError: for a name that this version does not have; lists what is available. (Sizes are checked when
            the model is read, against its own factor.)
    """
    engines = tuple(_choice("target", name, AVAILABLE_TARGETS, TargetName) for name in _words(target))
    if not engines:
        raise SpecError(f"--target must name at least one of: {', '.join(AVAILABLE_TARGETS)}")
    names = tuple(_choice("task", name, AVAILABLE_TASKS, Task) for name in _words(tasks))
    if not names:
        raise SpecError(f"--tasks must name at least one of: {', '.join(AVAILABLE_TASKS)}")
    return Recipe(
        targets=tuple(_target(name, precision) for name in engines),
        sizes=tuple(sizes),
        tasks=tuple(dict.fromkeys(names)),
        draws=draws,
    )


def _target(name: TargetName, precision: str) -> TargetRecipe:
    chosen = _choice(f"{name} precision", precision, AVAILABLE_PRECISIONS[name], Precision)
    return TargetRecipe(name=name, precision=chosen, thresholds=THRESHOLDS[chosen])


NameT = typing.TypeVar("NameT", bound=str)


def _choice(what: str, name: str, available: tuple[NameT, ...], known: object) -> NameT:
    for value in available:
        if value == name:
            return value
    verdict = "is not available in this version" if name in typing.get_args(known) else "is unknown"
    raise SpecError(f"{what} {name!r} {verdict}; available: {', '.join(available)}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
