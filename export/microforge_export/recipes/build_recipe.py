"""The recipe of a build: every choice and every limit, as one value.

``make_recipe`` parses the options of a command line into it and refuses what this version does not support.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from microforge.bundle.targets import Precision, TargetName
from microforge.errors import SpecError
from microforge_export.recipes.int8_recipe import Int8Recipe
from microforge_export.recipes.recipe_file import read_recipe

AVAILABLE_TARGETS: tuple[TargetName, ...] = ("onnx", "executorch", "coreml", "litert")
AVAILABLE_PRECISIONS: dict[TargetName, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "executorch": ("fp32", "int8"),
    "coreml": ("fp32", "fp16", "int8"),
    "litert": ("fp32", "int8"),
}
#: The precision of a target by default. Apple's Neural Engine computes in fp16 only.
DEFAULT_PRECISION: dict[TargetName, Precision] = {
    "onnx": "fp32",
    "executorch": "fp32",
    "coreml": "fp16",
    "litert": "fp32",
}


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits of a target. If one is missed, nothing is written.

    Attributes:
        component_psnr_db: lowest PSNR of any output of any component, over all recorded inputs.
        image_max_diff_255: largest difference of any pixel of an image, in 1/255.
    """

    component_psnr_db: float
    image_max_diff_255: float


THRESHOLDS: dict[Precision, Thresholds] = {
    "fp32": Thresholds(component_psnr_db=60.0, image_max_diff_255=2.0),
    # Rounding moves edges: the shipped student reaches 64 dB per component and differs by 2/255 at the worst pixel.
    "fp16": Thresholds(component_psnr_db=40.0, image_max_diff_255=8.0),
    # Images in INT8 are compared by PSNR over many samples (``quality_gate``), not by their worst pixel. The limit
    # of components is that of the recipe.
    "int8": Thresholds(component_psnr_db=20.0, image_max_diff_255=255.0),
}
#: Folder of the recipes that ship with the package: ``MODEL-TARGET.toml`` and ``MODEL-N-steps-TARGET.toml``.
RECIPES = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class TargetRecipe:
    """One target of a build: its precision and its limits."""

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
    """One build.

    Attributes:
        targets: the engines to build for.
        sizes: image sizes, "256" or "256x384" (height x width); empty for the size that the model was trained at.
        tasks: empty for all tasks of the model.
    """

    targets: tuple[TargetRecipe, ...]
    sizes: tuple[str, ...]
    tasks: tuple[str, ...]


def make_recipe(
    *, target: str, precision: str | None, sizes: Sequence[str], tasks: str | None = None,
    recipes: Sequence[Path] = (),
) -> Recipe:  # fmt: skip
    """Parse the options of a build.

    Args:
        target: names of engines, separated by commas.
        precision: precision of every target; None for ``DEFAULT_PRECISION``.
        sizes: image sizes; they are checked once the model is read, against its own factor.
        tasks: names of tasks, separated by commas; they are checked once the model is read. None for all of its tasks.
        recipes: INT8 recipe files of the user, at most one per target.

    Raises:
        SpecError: if a name is unknown or not supported; lists what is allowed.
    """
    engines = tuple(_choice("target", name, AVAILABLE_TARGETS, TargetName) for name in _split(target))
    if not engines:
        raise SpecError(f"--target must name at least one of: {', '.join(AVAILABLE_TARGETS)}")
    names = _split(tasks or "")
    if not names and tasks is not None:
        raise SpecError("--tasks must name at least one task, such as generate")
    return Recipe(
        targets=_with_recipes(tuple(_target(name, precision) for name in engines), recipes),
        sizes=tuple(sizes),
        tasks=names,
    )


def _target(name: TargetName, precision: str | None) -> TargetRecipe:
    precision = DEFAULT_PRECISION[name] if precision is None else precision
    checked = _choice(f"{name} precision", precision, AVAILABLE_PRECISIONS[name], Precision)
    return TargetRecipe(name=name, precision=checked, thresholds=THRESHOLDS[checked])


def _with_recipes(targets: tuple[TargetRecipe, ...], files: Sequence[Path]) -> tuple[TargetRecipe, ...]:
    by_target: dict[TargetName, Int8Recipe] = {}
    for file in files:
        recipe = read_recipe(file)
        if recipe.target in by_target:
            raise SpecError(f"{file} is a second recipe for {recipe.target}; give one per target")
        if not any(target.name == recipe.target and target.precision == "int8" for target in targets):
            requested = ", ".join(f"{target.name} in {target.precision}" for target in targets)
            raise SpecError(f"{file} is an int8 recipe for {recipe.target}; this build makes {requested}")
        by_target[recipe.target] = recipe
    return tuple(
        with_int8(item, by_target[item.name]) if item.name in by_target else item for item in targets
    )


def with_int8(target: TargetRecipe, recipe: Int8Recipe) -> TargetRecipe:
    """``target`` with an INT8 recipe and that recipe's limit for components."""
    limits = replace(target.thresholds, component_psnr_db=recipe.limits.component_psnr_db)
    return replace(target, int8=recipe, thresholds=limits)


def shipped_recipe(
    model: str, target: TargetName, steps: int | None = None, folder: Path = RECIPES
) -> Int8Recipe:
    """The INT8 recipe that ships with the package for a model.

    Args:
        model: name of the model.
        target: the engine.
        steps: number of sampling steps of a distilled model. It may have a recipe of its own, because few steps
            amplify an error less than many.
        folder: where to look.

    Raises:
        SpecError: if there is none; says how to make one.
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
    problem = "is not available in this version" if name in typing.get_args(known) else "is unknown"
    raise SpecError(f"{what} {name!r} {problem}; available: {', '.join(available)}")


def _split(text: str) -> tuple[str, ...]:
    """The different names in a list that is separated by commas."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
