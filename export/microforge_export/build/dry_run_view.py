"""The plan of a build for ``--dry-run``: its components, their predicted size, and the limits of each target."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from microforge_export.build.stage_values import Planned
from microforge_export.components.component import SourceComponent
from microforge_export.recipes.build_recipe import TargetRecipe


def plan_values(planned: Planned) -> dict[str, Any]:
    """The plan as JSON values. Bytes are those of one target, predicted from the parameters."""
    recipe, components = planned.recipe, planned.components
    return {
        "targets": {target.name: _target_values(target) for target in recipe.targets},
        "tasks": list(recipe.tasks),
        "sizes": [str(size) for size in planned.sizes],
        "components": {
            item.key: {**item.entry().model_dump(mode="json"), "predicted_bytes": item.weight_bytes()}
            for item in components
        },
        "predicted_bytes": shared_bytes(components),
    }


def _target_values(target: TargetRecipe) -> dict[str, Any]:
    return {"precision": target.precision, "thresholds": dataclasses.asdict(target.thresholds)}


def plan_table(planned: Planned) -> RenderableType:
    """The plan as a table."""
    values = plan_values(planned)
    table = Table("component", "inputs", "outputs")
    table.add_column("predicted bytes", justify="right")
    for key, item in values["components"].items():
        shapes = (_shapes(item["inputs"]), _shapes(item["outputs"]))
        table.add_row(key, *shapes, f"{item['predicted_bytes']:,}")
    return Group(
        f"Sizes: {', '.join(values['sizes'])}",
        f"Tasks: {', '.join(values['tasks'])}",
        table,
        f"Weights, stored once per target: about {values['predicted_bytes']:,} bytes",
        *(_limits(target) for target in planned.recipe.targets),
        "Dry run: nothing was written.",
    )


def _shapes(tensors: list[dict[str, Any]]) -> str:
    return "\n".join(f"{item['name']} {'x'.join(map(str, item['shape']))}" for item in tensors)


def _limits(target: TargetRecipe) -> str:
    limits = target.thresholds
    start = f"Limits for {target.name} in {target.precision}: at least {limits.component_psnr_db:g} dB per component"
    if target.int8 is None:
        return f"{start}; at most {limits.image_max_diff_255:g}/255 per pixel of an image"
    images = target.int8.limits
    return (
        f"{start}; over {images.images} images a median of at least {images.image_psnr_median_db:g} dB "
        f"and a worst of at least {images.image_psnr_worst_db:g} dB"
    )


def shared_bytes(components: tuple[SourceComponent, ...]) -> int:
    """Bytes of all parameters of ``components``; parameters that several networks share count once."""
    unique = {value.data_ptr(): value for item in components for value in item.module.parameters()}
    return sum(value.numel() * value.element_size() for value in unique.values())
