"""``report.json``: what a build knows beside the manifest, for people. Runtimes do not read it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from microforge.bundle.targets import TargetName

if TYPE_CHECKING:
    from microforge_export.build.stages import State


def build_report(state: State) -> dict[str, Any]:
    listed = {"files", "parts", "shared_files"}  # the manifest has them
    return {
        "recipe": {**dataclasses.asdict(state.recipe), "sizes": [str(size) for size in state.get("sizes")]},
        "parameter_bytes": {item.key: item.weight_bytes() for item in state.get("components")},
        "targets": {
            name: {
                **target.model_dump(mode="json", exclude=listed),
                "images": {key: value.model_dump() for key, value in state.get("images")[name].items()},
                "usability": {
                    key: {accelerator: dataclasses.asdict(value) for accelerator, value in found.items()}
                    for key, found in state.get("made")[name].usability.items()
                },
                "half_range": _half_ranges(state, name),
            }
            for name, target in state.get("manifest").targets.items()
        },
        "seconds": dict(state.seconds),
    }


def _half_ranges(state: State, target: TargetName) -> dict[str, Any]:
    """How close the ONNX graphs come to the range of half precision, by component key."""
    if target != "onnx":
        return {}
    from microforge_export.checks.half_range import half_range

    cases = state.get("reference").cases
    return {
        key: dataclasses.asdict(
            half_range(state.get("folder") / entry.path, [case.inputs for case in cases[key][:2]])
        )
        for key, entry in state.get("manifest").targets[target].files.items()
    }
