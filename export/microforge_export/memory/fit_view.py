"""The result of ``mf-export fit``: a table for people, JSON values for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from microforge.bundle.files import Bundle
from microforge_export.memory.fit import MB, MODES, MemoryFit


def fit_values(bundle: Bundle, fit: MemoryFit) -> dict[str, Any]:
    """The result as JSON values; all sizes in bytes."""
    return {
        "bundle": str(bundle.path), "id": bundle.id, "device": fit.device.model_dump(), "target": fit.target,
        "size": fit.size, "fits": fit.fits, "mode": fit.mode, "reason": fit.reason,
        "budget": fit.device.budget_bytes, "stages": [asdict(stage) for stage in fit.stages],
        "peaks": {mode: dict(fit.peaks[mode]) for mode in MODES},
    }  # fmt: skip


def fit_table(fit: MemoryFit) -> RenderableType:
    """One row per component with its memory in MB (10^6 bytes), and the conclusion."""
    table = Table(
        title=f"Memory in MB on {fit.device.name}: {fit.target}, {fit.size} pixels",
        box=box.SIMPLE,
        title_justify="left",
    )
    table.add_column("component")
    for heading in ("weights", "activations", "loading", "peak resident", "peak staged"):
        table.add_column(heading, justify="right")
    for stage in fit.stages:
        counts = (
            stage.weights,
            stage.activations,
            stage.loading,
            *(fit.peaks[mode][stage.role] for mode in MODES),
        )
        table.add_row(stage.role, *(f"{count / MB:,.1f}" for count in counts))
    conclusion = f"The bundle fits: {fit.reason}." if fit.fits else f"The bundle does not fit: {fit.reason}."
    return Group(table, f"Budget of the device: {fit.device.budget_bytes / MB:,.1f} MB.", conclusion)
