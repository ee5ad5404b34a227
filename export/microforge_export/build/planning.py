"""The first stages of a build: they read the model and choose sizes and components. Bad input is found here."""

from __future__ import annotations

import dataclasses

from microforge.bundle.manifest import Size
from microforge.errors import SpecError
from microforge.spec import parse_size
from microforge_export.build.stage_values import BuildRequest, LoadedModel, Planned
from microforge_export.build.stages import BuildStage
from microforge_export.quantization.build_steps import with_int8_recipes


def read_checkpoint(request: BuildRequest) -> LoadedModel:
    """Read the model and complete the recipe: all tasks of the model by default, and the INT8 recipes.

    Raises:
        SpecError: if the model cannot do a task, or a target has no INT8 recipe.
    """
    model, recipe = request.load(), request.recipe
    for task in recipe.tasks:
        if task not in model.tasks:
            raise SpecError(f"this checkpoint cannot {task}; its tasks: {', '.join(model.tasks)}")
    tasks = recipe.tasks or model.tasks
    requests = tuple(item for item in recipe.requests if item.task in tasks)
    completed = dataclasses.replace(recipe, tasks=tasks, requests=requests)
    return LoadedModel(with_int8_recipes(completed, model), model)


def choose_components(loaded: LoadedModel) -> Planned:
    """Parse the sizes against the model's own factor and ask its provider for the networks.

    Raises:
        SpecError: if the model cannot have a size.
    """
    model = loaded.model
    pixels = [parse_size(text, model.latent.downsample) for text in loaded.recipe.sizes]
    sizes = tuple(Size(height=height, width=width) for height, width in dict.fromkeys(pixels))
    sizes = sizes or (model.native_size,)
    return Planned(loaded.recipe, model, sizes, model.provider.components(sizes, loaded.recipe.tasks))


PLANNING = (
    BuildStage("read the checkpoint", read_checkpoint),
    BuildStage("choose components", choose_components),
)
