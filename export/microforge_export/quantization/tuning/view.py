"""The result of ``mf-export tune``: tables for people, JSON values for programs."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from microforge_export.checks.metrics import image_metrics
from microforge_export.quantization.quality import MeasuredQuality, manifest_quality
from microforge_export.recipes.int8_recipe import Int8Recipe, MeasuredCandidate, component_precision


def tune_table(recipe: Int8Recipe, quality: MeasuredQuality) -> RenderableType:
    """Every measured candidate with the decision on it, and the quality of the whole recipe."""
    table = Table("component", "operator group", "scheme")
    for title in ("PSNR", "ms", "fp32 ms", "ratio", "bytes", "of fp32"):
        table.add_column(title, justify="right")
    table.add_column("decision")
    for item in recipe.candidates:
        timed = item.fp32_milliseconds > 0.0
        share = f"{item.bytes / item.fp32_bytes:.2f}" if item.fp32_bytes else "-"
        table.add_row(
            item.component, item.group, item.scheme, f"{item.psnr_db:.1f} dB",
            f"{item.milliseconds:.3g}" if timed else "-", f"{item.fp32_milliseconds:.3g}" if timed else "-",
            f"{item.milliseconds / item.fp32_milliseconds:.2f}" if timed else "-", f"{item.bytes:,}", share,
            _decision(item, recipe),
        )  # fmt: skip
    host = recipe.host
    precisions = ", ".join(f"{role} {component_precision(recipe, role)}" for role in recipe.schemes)
    extensions = ", ".join(host.instructions) or "unknown extensions"
    return Group(
        table,
        f"Preferred: {recipe.prefer}. Components: {precisions}.",
        f"Measured on {host.machine} ({extensions}) with {host.threads} threads. "
        "Bytes are those of the component's constants.",
        *(
            f"{item.what}: {item.measured()} (limit: {item.needed()})"
            for item in image_metrics(manifest_quality(quality, recipe.limits))
        ),
    )


def _decision(candidate: MeasuredCandidate, recipe: Int8Recipe) -> str:
    if candidate.chosen:
        return "chosen"
    if candidate.psnr_db < recipe.limits.component_psnr_db:
        return f"below {recipe.limits.component_psnr_db:g} dB"
    return "slower than fp32" if candidate.milliseconds > candidate.fp32_milliseconds else ""


def tune_values(recipe: Int8Recipe, quality: MeasuredQuality) -> dict[str, Any]:
    """The recipe and its quality as JSON values."""
    images = {"image_median_db": quality.image_median_db, "image_worst_db": quality.image_worst_db}
    return {**dataclasses.asdict(recipe), "quality": {**dataclasses.asdict(quality), **images}}
