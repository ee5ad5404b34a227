"""The result of ``mf-export verify``: a table for people, JSON values for programs. No torch."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table

from microforge_export.checks.verify import Verification


def verify_table(result: Verification) -> RenderableType:
    """Every check with its measurement and its limit."""
    table = Table("check", "measured", "limit")
    for target, components in result.parity.items():
        for key, value in components.items():
            table.add_row(f"{target} {key}", f"{value.psnr_db:.1f} dB", f"at least {value.threshold_db:g} dB")
        for name, image in result.images[target].items():
            limit = f"at most {image.threshold:g}/255"
            table.add_row(f"{target} image of {name}", f"{image.max_abs_255:.3g}/255", limit)
        for metric in result.metrics.get(target, ()):
            table.add_row(f"{target} {metric.what}", metric.measured(), metric.needed())
    return table


def verify_values(path: str, result: Verification) -> dict[str, Any]:
    """The same as JSON values; ``path`` is that of the bundle."""
    targets = {
        target: {
            "parity": {key: value.model_dump() for key, value in result.parity[target].items()},
            "images": {name: value.model_dump() for name, value in result.images[target].items()},
            "metrics": {metric.what: metric.value for metric in result.metrics.get(target, ())},
        }
        for target in result.parity
    }
    problems = list(result.problems)
    return {"bundle": path, "ok": not problems, "targets": targets, "problems": problems}
