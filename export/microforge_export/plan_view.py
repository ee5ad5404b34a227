"""The plan of a build for ``--dry-run``: what would be made, how large it would be, what it must reach."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from microforge_export.pipeline import State
from microforge_export.program import Component


def plan_values(state: State) -> dict[str, Any]:
    """The plan as JSON values; bytes are predicted from the parameters, each counted once."""
    recipe, components = state.recipe, state.get("components")
    return {
        "target": recipe.target,
        "precision": recipe.precision,
        "tasks": list(recipe.tasks),
        "sizes": [str(size) for size in state.get("sizes")],
        "components": {
            item.key: {**item.entry().model_dump(mode="json"), "predicted_bytes": item.weight_bytes()}
            for item in components
        },
        "predicted_bytes": shared_bytes(components),
        "thresholds": {
            "component_psnr_db": recipe.thresholds.component_psnr_db,
            "image_max_diff_255": recipe.thresholds.image_max_diff_255,
        },
    }


def plan_table(state: State) -> RenderableType:
    """The plan as a table."""
    values = plan_values(state)
    table = Table("component", "inputs", "outputs")
    table.add_column("predicted bytes", justify="right")
    for key, item in values["components"].items():
        shapes = ["\n".join(f"{t['name']} {'x'.join(map(str, t['shape']))}" for t in item[side]) for side in ("inputs", "outputs")]  # fmt: skip
        table.add_row(key, *shapes, f"{item['predicted_bytes']:,}")
    limits = state.recipe.thresholds
    return Group(
        f"{values['target']}, {values['precision']}, {', '.join(values['sizes'])}, tasks: {', '.join(values['tasks'])}",
        table,
        f"weights, stored once: about {values['predicted_bytes']:,} bytes",
        f"needed: {limits.component_psnr_db:g} dB per component, {limits.image_max_diff_255:g}/255 per pixel of an image",
        "nothing was written",
    )  # fmt: skip


def shared_bytes(components: tuple[Component, ...]) -> int:
    """Bytes of all parameters of ``components``, each counted once however many networks use it."""
    unique = {value.data_ptr(): value for item in components for value in item.module.parameters()}
    return sum(value.numel() * value.element_size() for value in unique.values())
