"""The plan of a build for ``--dry-run``: what would be made, how large it would be, what it must reach."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from microforge_export.build.stages import State
from microforge_export.components.component import SourceComponent
from microforge_export.recipes.build_recipe import TargetRecipe


def plan_values(state: State) -> dict[str, Any]:
    """The plan as JSON values; bytes are those of one target, predicted from the parameters, each counted once."""
    recipe, components = state.recipe, state.get("components")
    return {
        "targets": {target.name: _target(target) for target in recipe.targets},
        "tasks": list(recipe.tasks),
        "sizes": [str(size) for size in state.get("sizes")],
        "components": {
            item.key: {**item.entry().model_dump(mode="json"), "predicted_bytes": item.weight_bytes()}
            for item in components
        },
        "predicted_bytes": shared_bytes(components),
    }


def _target(target: TargetRecipe) -> dict[str, Any]:
    return {"precision": target.precision, "thresholds": dataclasses.asdict(target.thresholds)}


def plan_table(state: State) -> RenderableType:
    """The plan as a table."""
    values = plan_values(state)
    table = Table("component", "inputs", "outputs")
    table.add_column("predicted bytes", justify="right")
    for key, item in values["components"].items():
        shapes = ["\n".join(f"{t['name']} {'x'.join(map(str, t['shape']))}" for t in item[side]) for side in ("inputs", "outputs")]  # fmt: skip
        table.add_row(key, *shapes, f"{item['predicted_bytes']:,}")
    return Group(
        f"{', '.join(values['sizes'])}, tasks: {', '.join(values['tasks'])}",
        table,
        f"weights, stored once per target: about {values['predicted_bytes']:,} bytes",
        *(_needed(target) for target in state.recipe.targets),
        "nothing was written",
    )


def _needed(target: TargetRecipe) -> str:
    limits = target.thresholds
    if target.int8 is not None:
        least = target.int8.limits
        return (
            f"{target.name}, {target.precision}, needed: {limits.component_psnr_db:g} dB per component; over "
            f"{least.images} images median {least.image_psnr_median_db:g} dB, worst {least.image_psnr_worst_db:g} dB"
        )
    return (
        f"{target.name}, {target.precision}, needed: {limits.component_psnr_db:g} dB per component, "
        f"{limits.image_max_diff_255:g}/255 per pixel of an image"
    )


def shared_bytes(components: tuple[SourceComponent, ...]) -> int:
    """Bytes of all parameters of ``components``, each counted once however many networks use it."""
    unique = {value.data_ptr(): value for item in components for value in item.module.parameters()}
    return sum(value.numel() * value.element_size() for value in unique.values())
