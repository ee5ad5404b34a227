"""The table of a tuning run, for a terminal and as JSON values."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from microforge_export.checks.figures import image_figures
from microforge_export.quantization.quality import MeasuredQuality, manifest_quality
from microforge_export.recipes.int8_recipe import Int8Recipe, MeasuredCandidate, component_precision


def tune_table(recipe: Int8Recipe, quality: MeasuredQuality) -> RenderableType:
    """Every measured candidate with its verdict, and the quality of the recipe as a whole."""
    table = Table("component", "operator group", "scheme")
    for title in ("PSNR", "ms", "fp32 ms", "ratio", "bytes", "of fp32"):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for row in recipe.rows:
        timed = row.fp32_milliseconds > 0.0
        share = f"{row.bytes / row.fp32_bytes:.2f}" if row.fp32_bytes else "-"
        table.add_row(
            row.component, row.group, row.scheme, f"{row.psnr_db:.1f} dB",
            f"{row.milliseconds:.3g}" if timed else "-", f"{row.fp32_milliseconds:.3g}" if timed else "-",
            f"{row.milliseconds / row.fp32_milliseconds:.2f}" if timed else "-", f"{row.bytes:,}", share,
            _verdict(row, recipe),
        )  # fmt: skip
    host = recipe.host
    precisions = ", ".join(f"{role} {component_precision(recipe, role)}" for role in recipe.schemes)
    figures = image_figures(manifest_quality(quality, recipe.limits))
    return Group(
        table,
        f"preferred: {recipe.prefer}; components: {precisions}",
        f"measured on {host.machine} ({', '.join(host.instructions) or 'extensions unknown'}), "
        f"{host.threads} threads; bytes are those of the component's constants",
        *(f"{item.what}: {item.measured()} (needed: {item.needed()})" for item in figures),
    )


def _verdict(row: MeasuredCandidate, recipe: Int8Recipe) -> str:
    if row.chosen:
        return "chosen"
    if row.psnr_db < recipe.limits.component_psnr_db:
        return f"below {recipe.limits.component_psnr_db:g} dB"
    return "slower than fp32" if row.milliseconds > row.fp32_milliseconds else ""


def tune_values(recipe: Int8Recipe, quality: MeasuredQuality) -> dict[str, Any]:
    """The same as JSON values."""
    whole = {"image_median_db": quality.image_median_db, "image_worst_db": quality.image_worst_db}
    return {**dataclasses.asdict(recipe), "quality": {**dataclasses.asdict(quality), **whole}}
