"""The bundle manifest: the only contract between Python and every device (docs/bundle.md).

Pydantic models for ``manifest.json``, schema version 2. Its keys are in ``layout``, their parts in ``entry``, ``inputs``,
``sampling`` and ``targets`` of this package; ``consistency`` checks that they agree, and ``version1`` translates older
manifests. No torch, no file access: reading, hashing and writing live in ``microforge.bundle.files``. Shapes are static,
with batch 1; every size is in pixels or latent cells, every byte count in bytes. ``python -m microforge.bundle`` prints
the JSON Schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import model_validator

from microforge.bundle.consistency import check_manifest, used_encoders
from microforge.bundle.entry import Entry, FileEntry, Role, Size, TaskName
from microforge.bundle.inputs import DType, EncoderEntry
from microforge.bundle.layout import (
    Component,
    Driving,
    Golden,
    Layout,
    ModelEntry,
    Provenance,
    SizeEntry,
    TensorSpec,
    Trajectory,
)
from microforge.bundle.sampling import BranchEntry, Task

__all__ = [
    "MANIFEST", "MAX_MANIFEST_BYTES", "SCHEMA_VERSION", "Component", "DType", "Driving", "Entry", "FileEntry", "Golden", "Manifest",
    "ModelEntry", "Provenance", "Role", "Size", "SizeEntry", "Stage", "StageKind", "Task", "TaskName", "TensorSpec", "Trajectory", "reads_prompt",
    "schema_text", "task_for",
]  # fmt: skip

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
#: Bytes that a manifest may have; everything else is bounded by what it says.
MAX_MANIFEST_BYTES = 1 << 24

StageKind = Literal["prompt_encoder", "image_encoder", "network", "decoder"]


@dataclass(frozen=True)
class Stage:
    """A component role in the order of running, and what it does there."""

    role: str
    kind: StageKind


class Manifest(Layout):
    """``manifest.json`` of a bundle: parts that agree, and what follows from them."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Manifest:
        check_manifest(self)
        return self

    @property
    def steps(self) -> int:
        """Steps of a sample where the user names no count."""
        return self.samplers[0].steps

    @property
    def default_task(self) -> str:
        return next(iter(self.tasks))

    def stages(self, task: str | None = None) -> tuple[Stage, ...]:
        """What a sample of ``task`` (the default one when None) runs, each role once, in order."""
        entry = self.tasks[task or self.default_task]
        encoders = [self.encoders[name] for name in used_encoders(self, entry)]
        prompts = [Stage(item.role, "prompt_encoder") for item in encoders if reads_prompt(item)]
        images = [Stage(item.role, "image_encoder") for item in encoders if not reads_prompt(item)]
        stages = [*prompts, *images, Stage(entry.network, "network")]
        if self.decode.role is not None:
            stages.append(Stage(self.decode.role, "decoder"))
        return tuple({stage.role: stage for stage in stages}.values())

    def active_branches(self, task: str | None = None) -> tuple[BranchEntry, ...]:
        """Branches of ``task`` (the default one when None) that are evaluated at the default guidance scales."""
        scales = {name: scale.default for name, scale in self.guidance.items()}
        branches = self.tasks[task or self.default_task].branches
        return tuple(branch for branch in branches if branch.weight.value(scales) != 0.0)


def task_for(tasks: Mapping[str, Task], *, image: bool, mask: bool) -> str | None:
    """The first of ``tasks`` that these inputs are enough for; with a mask one that needs it before one that allows it.

    A task that starts sampling from the image is not chosen for an image alone: it is asked for with a strength.
    """
    for needs in ("required", "optional") if mask else ("none optional",):
        for name, task in tasks.items():
            source = task.source
            if source is None and not image:
                return name
            starts = source is not None and source.start is not None and source.mask != "required"
            if source is not None and image and not starts and source.mask in needs:
                return name
    return None


def reads_prompt(encoder: EncoderEntry) -> bool:
    """Whether an encoder reads token ids, and not the user's image."""
    return any(item.kind in ("tokens", "token_mask") for item in encoder.inputs.values())


def schema_text() -> str:
    """JSON Schema (draft 2020-12) of ``manifest.json``, as checked in at docs/bundle.schema.json."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**draft, **Manifest.model_json_schema()}, indent=1, sort_keys=True) + "\n"
