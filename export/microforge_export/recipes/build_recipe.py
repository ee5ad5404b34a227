"""The recipe of a bundle: every choice and every threshold of a build, as one value.

``make_recipe`` turns the words of a command line into it and refuses what this version cannot do.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from microforge.bundle.manifest import Task
from microforge.bundle.targets import Precision, TargetName
from microforge.errors import SpecError
from microforge_export.recipes.int8_recipe import Int8Recipe, read_recipe

AVAILABLE_TARGETS: tuple[TargetName, ...] = ("onnx", "executorch", "coreml")
AVAILABLE_PRECISIONS: dict[TargetName, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "executorch": ("fp32", "int8"),
    "coreml": ("fp32", "fp16", "int8"),
}
#: What a target is built in when nothing is asked: Apple's accelerators compute in fp16 alone.
DEFAULT_PRECISION: dict[TargetName, Precision] = {"onnx": "fp32", "executorch": "fp32", "coreml": "fp16"}
AVAILABLE_TASKS: tuple[Task, ...] = ("generate", "edit", "inpaint", "super-resolve")


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What an artefact must reach; below it nothing is written."""

    component_psnr_db: float  # worst output of every component, over all its inputs
    image_max_diff_255: float  # worst pixel of a whole drawing, in 1/255


THRESHOLDS: dict[Precision, Thresholds] = {
    "fp32": Thresholds(component_psnr_db=60.0, image_max_diff_255=2.0),
    # Rounding moves the edges of a few steps' drawing: the shipped student's worst pixel is 3.9, its components 64 dB.
    "fp16": Thresholds(component_psnr_db=40.0, image_max_diff_255=8.0),
    # Whole images in INT8 are judged by PSNR over many drawings (``quality_gate``), not by their worst pixel;
    # the limit of components is the recipe's own.
    "int8": Thresholds(component_psnr_db=20.0, image_max_diff_255=255.0),
}
#: Recipes that ship with the package: ``MODEL-TARGET.toml``.
RECIPES = Path(__file__).parent


@dataclass(frozen=True)
class SampleRequest:
    """A prompt, the seed of its noise, and the task; a task with a source starts from ``sources.given``."""

    prompt: str  # empty: no words, where the task can do without
    seed: int
    task: Task = "generate"


@dataclass(frozen=True, kw_only=True)
class TargetRecipe:
    """One engine of a build: how its files are made and what they must reach."""

    name: TargetName
    precision: Precision
    thresholds: Thresholds
    int8: Int8Recipe | None = (
        None  # only with precision int8; the shipped one is read once the model is known
    )

    def required_int8(self) -> Int8Recipe:
        """The INT8 recipe.

        Raises:
            LookupError: if there is none yet.
        """
        if self.int8 is None:
            raise LookupError(f"target {self.name} has no INT8 recipe")
        return self.int8


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One build. The first of ``requests`` of a task is its golden trajectory; the very first makes the preview.

    All of ``requests`` are checked on all of ``targets``.
    """

    targets: tuple[TargetRecipe, ...]
    sizes: tuple[
        str, ...
    ]  # each "256" or "256x384" (height x width); empty: the size the model was trained at
    tasks: tuple[Task, ...]  # empty: all that the model knows, until it is read
    requests: tuple[SampleRequest, ...]


TEST_REQUESTS = (
    SampleRequest("a red circle", 0),
    SampleRequest("a blue square on a white background", 1),
    SampleRequest("a green triangle on the left", 2),
    SampleRequest("make the circle green", 3, "edit"),
    SampleRequest("a red circle and a blue square", 4, "inpaint"),
    SampleRequest("", 5, "super-resolve"),
)


def make_recipe(
    *, target: str, precision: str | None, sizes: Sequence[str], tasks: str | None = None, requests: tuple[SampleRequest, ...] = TEST_REQUESTS,
    recipes: Sequence[Path] = (),
) -> Recipe:  # fmt: skip
    """A recipe from a command line's words.

    Args:
        target, tasks: names, or several with commas between them; tasks of None are all that the model knows.
        precision: of every target; None: ``DEFAULT_PRECISION``.
        recipes: INT8 recipes of the user's own, at most one per target; each names its target.

    Raises:
        SpecError: for a name that this version does not have; lists what is available. (Sizes are checked when
            the model is read, against its own factor.)
    """
    engines = tuple(_choice("target", name, AVAILABLE_TARGETS, TargetName) for name in _words(target))
    if not engines:
        raise SpecError(f"--target must name at least one of: {', '.join(AVAILABLE_TARGETS)}")
    names = tuple(_choice("task", name, AVAILABLE_TASKS, Task) for name in _words(tasks or ""))
    if not names and tasks is not None:
        raise SpecError(f"--tasks must name at least one of: {', '.join(AVAILABLE_TASKS)}")
    return Recipe(
        targets=_with_recipes(tuple(_target(name, precision) for name in engines), recipes),
        sizes=tuple(sizes),
        tasks=tuple(dict.fromkeys(names)),
        requests=requests,
    )


def _target(name: TargetName, precision: str | None) -> TargetRecipe:
    precision = DEFAULT_PRECISION[name] if precision is None else precision
    chosen = _choice(f"{name} precision", precision, AVAILABLE_PRECISIONS[name], Precision)
    return TargetRecipe(name=name, precision=chosen, thresholds=THRESHOLDS[chosen])


def _with_recipes(targets: tuple[TargetRecipe, ...], files: Sequence[Path]) -> tuple[TargetRecipe, ...]:
    found: dict[TargetName, Int8Recipe] = {}
    for file in files:
        recipe = read_recipe(file)
        if recipe.target in found:
            raise SpecError(f"{file} is a second recipe for {recipe.target}; give one per target")
        if not any(target.name == recipe.target and target.precision == "int8" for target in targets):
            asked = ", ".join(f"{target.name} in {target.precision}" for target in targets)
            raise SpecError(f"{file} is an int8 recipe for {recipe.target}; this build makes {asked}")
        found[recipe.target] = recipe
    return tuple(with_int8(item, found[item.name]) if item.name in found else item for item in targets)


def with_int8(target: TargetRecipe, recipe: Int8Recipe) -> TargetRecipe:
    """``target`` made by ``recipe``, whose limits it must then reach."""
    least = recipe.limits.component_psnr_db
    return replace(target, int8=recipe, thresholds=replace(target.thresholds, component_psnr_db=least))


def shipped_recipe(
    model: str, target: TargetName, steps: int | None = None, folder: Path = RECIPES
) -> Int8Recipe:
    """The recipe that ships with the package for a model.

    Args:
        steps: of a distilled model, which may have a recipe of its own: few steps amplify an error less than many.

    Raises:
        SpecError: when there is none; says how to make one.
    """
    names = [f"{model}-{target}.toml"]
    if steps is not None:
        names.insert(0, f"{model}-{steps}-steps-{target}.toml")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        known = ", ".join(sorted(item.stem for item in folder.glob("*.toml"))) or "none"
        raise SpecError(
            f"no int8 recipe for model {model!r} on {target} ships with this version (it has: {known}); make one "
            f"with mf-export tune CHECKPOINT --target {target} --out recipe.toml and give it with --recipe"
        )
    return read_recipe(file)


NameT = typing.TypeVar("NameT", bound=str)


def _choice(what: str, name: str, available: tuple[NameT, ...], known: object) -> NameT:
    for value in available:
        if value == name:
            return value
    verdict = "is not available in this version" if name in typing.get_args(known) else "is unknown"
    raise SpecError(f"{what} {name!r} {verdict}; available: {', '.join(available)}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
