"""The result of ``mf-export build``: sentences for people, JSON values for programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from microforge_export.build.builder import BuildResult
from microforge_export.checks.inspect import target_bytes
from microforge_export.checks.metrics import image_metrics


def result_lines(result: BuildResult) -> Iterator[str]:
    """Every measurement beside its limit, one per line."""
    for name, target in result.manifest.targets.items():
        for key, value in target.parity.items():
            yield f"{name} {key}: {value.psnr_db:.1f} dB (limit: at least {value.threshold_db:g} dB)"
        if target.image is not None:
            worst, limit = target.image.max_abs_255, target.image.threshold
            yield f"{name} images: worst pixel differs by {worst:.3g}/255 (limit: {limit:g}/255)"
        for size, quality in target.quality.items():
            for metric in image_metrics(quality):
                yield f"{name} at {size}: {metric.what} is {metric.measured()} (limit: {metric.needed()})"


def result_values(result: BuildResult, out: Path) -> dict[str, Any]:
    """The same as JSON values, with sizes in bytes and the duration in seconds."""
    manifest = result.manifest
    return {
        "bundle": str(out.absolute()),
        "id": result.bundle_id,
        "sizes": [str(entry.size) for entry in manifest.sizes],
        "targets": {
            name: {
                "bytes": target_bytes(target),
                "parity": {key: value.model_dump() for key, value in target.parity.items()},
                "image": None if target.image is None else target.image.model_dump(),
                "quality": {size: value.model_dump() for size, value in target.quality.items()},
                "delegated_fraction": target.delegated_fraction,
            }
            for name, target in manifest.targets.items()
        },
        "seconds": round(sum(result.seconds.by_stage.values()), 2),
    }
