"""``report.json``: what a build knows beyond the manifest, for people. Runtimes do not read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microforge.bundle.entry import FileEntry
from microforge.bundle.manifest import Manifest
from microforge_export.build.stage_values import Measured, OutputFolder, Planned, References, Written
from microforge_export.build.stages import StageSeconds
from microforge_export.checks.golden import Case


def build_report(
    folder: OutputFolder, planned: Planned, written: Written, measured: Measured, references: References,
    manifest: Manifest, seconds: StageSeconds,
) -> dict[str, Any]:  # fmt: skip
    """The report as JSON values: recipe, bytes of parameters, measurements per target, and seconds per stage."""
    in_manifest = {"files", "parts", "shared_files"}
    return {
        "recipe": {
            **dataclasses.asdict(planned.recipe),
            "sizes": [str(size) for size in planned.sizes],
            "requests": [dataclasses.asdict(item) for item in planned.model.requests],
        },
        "parameter_bytes": {item.key: item.weight_bytes() for item in planned.components},
        "targets": {
            name: {
                **target.model_dump(mode="json", exclude=in_manifest),
                "images": {key: value.model_dump() for key, value in measured.by_target[name].images.items()},
                "usability": {
                    key: {name: dataclasses.asdict(value) for name, value in accelerators.items()}
                    for key, accelerators in written.by_target[name].usability.items()
                },
                "half_range": _half_ranges(folder.path, target.files, references.recorded.cases)
                if name == "onnx"
                else {},
            }
            for name, target in manifest.targets.items()
        },
        "seconds": dict(seconds.by_stage),
    }


def _half_ranges(
    folder: Path, files: Mapping[str, FileEntry], cases: Mapping[str, Sequence[Case]]
) -> dict[str, Any]:
    """How close the ONNX graphs come to the range of half precision, by component key."""
    from microforge_export.checks.half_range import half_range

    return {
        key: dataclasses.asdict(half_range(folder / entry.path, [case.inputs for case in cases[key][:2]]))
        for key, entry in files.items()
    }
