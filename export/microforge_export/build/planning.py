"""The first stages of a build: they read the model and choose sizes and components. Bad input is found here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from microforge.bundle.manifest import Size
from microforge.errors import SpecError
from microforge.spec import parse_size
from microforge_export.build.stage_values import BuildRequest, LoadedModel, Planned
from microforge_export.build.stages import BuildStage
from microforge_export.components.component import SourceComponent
from microforge_export.quantization.build_steps import with_int8_recipes
from microforge_export.recipes.build_recipe import Recipe


def read_checkpoint(request: BuildRequest) -> LoadedModel:
    """Read the model and complete the recipe: all tasks of the model by default, and the INT8 recipes.

    Raises:
        SpecError: if the model cannot do a task, or a target has no INT8 recipe.
    """
    model, recipe = request.load(), request.recipe
    for task in recipe.tasks:
        if task not in model.tasks:
            raise SpecError(f"this model cannot {task}; its tasks: {', '.join(model.tasks)}")
    tasks = tuple(task for task in model.tasks if not recipe.tasks or task in recipe.tasks)
    requests = tuple(item for item in model.requests if (item.task or model.tasks[0]) in tasks)
    model = dataclasses.replace(model, requests=requests)
    completed = dataclasses.replace(recipe, tasks=tasks)
    return LoadedModel(with_int8_recipes(completed, model), model)


def choose_components(loaded: LoadedModel) -> Planned:
    """Parse the sizes against the model's own factor and ask its provider for the networks.

    Raises:
        SpecError: if the model cannot have a size, or an INT8 recipe names a component that it lacks.
    """
    model = loaded.model
    driving = model.provider.driving(loaded.recipe.tasks)
    pixels = [parse_size(text, driving.latent.downsample) for text in loaded.recipe.sizes]
    sizes = tuple(Size(height=height, width=width) for height, width in dict.fromkeys(pixels))
    sizes = sizes or (model.native_size,)
    components = model.provider.components(sizes, loaded.recipe.tasks)
    _check_int8_roles(loaded.recipe, components)
    return Planned(loaded.recipe, model, driving, sizes, components)


def _check_int8_roles(recipe: Recipe, components: Sequence[SourceComponent]) -> None:
    roles = {role: None for item in components for role in (item.role, item.family)}
    for target in recipe.targets:
        for role in target.int8.schemes if target.int8 is not None else ():
            if role not in roles:
                raise SpecError(
                    f"the int8 recipe for {target.name} names a component {role!r}; this model has: {', '.join(roles)}"
                )


PLANNING = (
    BuildStage("read the checkpoint", read_checkpoint),
    BuildStage("choose components", choose_components),
)
