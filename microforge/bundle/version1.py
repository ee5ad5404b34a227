"""Manifests of schema version 1, translated into version 2: the only reader of the older format.

Version 1 described MicroForge models alone: closed roles and tasks, Euler steps, one tokenizer. Its keys are checked as
strictly as before, then ``reference_model`` says how such a model is driven.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from microforge.bundle.entry import Entry, FileEntry, Sha256, Shape, Side, Size, TokenId
from microforge.bundle.inputs import DType
from microforge.bundle.layout import (
    Component,
    Golden,
    ModelEntry,
    Provenance,
    SizeEntry,
    TensorSpec,
    Trajectory,
)
from microforge.bundle.manifest import Manifest
from microforge.bundle.reference_model import IMAGE_ENCODER, Facts, driving
from microforge.bundle.sampling import LatentSpace
from microforge.bundle.targets import (
    Coverage,
    ImageParity,
    Memory,
    Parity,
    Precision,
    Quality,
    QualityLimits,
    Target,
    TargetName,
)

_Role = Literal["text_encoder", "denoiser", "denoiser_edit", "vae_decoder", "vae_encoder"]
_Task = Literal["generate", "edit", "inpaint", "super-resolve"]
#: Standard names of a trajectory's tensors -> those of version 1.
_TENSORS = {
    "u": "z", "m": "velocity", "state.plan": "plan", "mask": "hole", "tokens.prompt.ids": "ids",
    "tokens.prompt.mask": "mask", "other_tokens.prompt.ids": "empty_ids", "other_tokens.prompt.mask": "empty_mask",
}  # fmt: skip


class _Tensor(Entry):
    name: Annotated[str, Field(min_length=1)]
    shape: Shape
    dtype: DType


class _Component(Entry):
    role: _Role
    size: Size | None
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]


class _Guidance(Entry):
    text: float
    image: float


class _Sampler(Entry):
    timesteps: Annotated[tuple[float, ...], Field(min_length=2, max_length=1001)]
    guidance: Literal["folded"] | _Guidance
    prediction: Literal["velocity"]
    unchanged: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _falls_from_one_to_zero(self) -> _Sampler:
        grid = self.timesteps
        if grid[0] != 1.0 or grid[-1] != 0.0 or any(b >= a for a, b in itertools.pairwise(grid)):
            raise ValueError("timesteps must fall strictly from 1.0 to 0.0")
        return self


class _Tokenizer(Entry):
    file: FileEntry
    max_length: Annotated[int, Field(ge=4, le=1 << 14)]
    pad: TokenId
    bos: TokenId
    eos: TokenId
    task_prefixes: dict[_Task, TokenId]


class _Trajectory(Entry):
    task: _Task
    size: Size
    prompt: str
    seed: Annotated[int, Field(ge=0, lt=1 << 64)]
    file: FileEntry


class _Golden(Entry):
    components: dict[str, FileEntry] = Field(default={})
    trajectories: tuple[_Trajectory, ...] = ()


class _Limits(Entry):
    psnr_median_db: float
    psnr_worst_db: float
    survival_low: float
    survival_high: float
    plan_drift: float


class _Quality(Entry):
    images: Annotated[int, Field(ge=1)]
    psnr_median_db: float
    psnr_worst_db: float
    survival: Annotated[float, Field(ge=0)]
    plan_drift: Annotated[float, Field(ge=0)]
    limits: _Limits


class _Target(Entry):
    precision: Precision
    files: dict[str, FileEntry]
    parts: dict[str, tuple[FileEntry, ...]] = Field(default={})
    shared_files: tuple[FileEntry, ...] = ()
    shared_sha256: dict[str, Sha256] = Field(default={})
    parity: dict[str, Parity] = Field(default={})
    image: ImageParity | None = None
    tasks: dict[str, ImageParity] = Field(default={})
    precisions: dict[str, Precision] = Field(default={})
    quality: dict[str, _Quality] = Field(default={})
    memory: dict[str, Memory] = Field(default={})
    operators: dict[str, Annotated[int, Field(ge=0)]] = Field(default={})
    coverage: dict[str, Coverage] = Field(default={})
    delegated_fraction: Annotated[float, Field(ge=0, le=1)] | None = None


class _Provenance(Entry):
    checkpoint_sha256: Sha256
    versions: dict[str, str]
    created: str


class _Size(Size):
    latent_shape: tuple[Side, Side, Side]


class Version1(Entry):
    """``manifest.json`` of schema version 1."""

    schema_version: Literal[1]
    model: dict[str, JsonValue]
    tasks: Annotated[tuple[_Task, ...], Field(min_length=1)]
    sizes: Annotated[tuple[_Size, ...], Field(min_length=1)]
    sampler: _Sampler
    latent: LatentSpace
    noise: Literal["philox4x32-10/box-muller"]
    tokenizer: _Tokenizer
    components: dict[str, _Component]
    targets: dict[TargetName, _Target]
    golden: _Golden = _Golden()
    provenance: _Provenance

    @model_validator(mode="after")
    def _every_task_has_a_prefix(self) -> Version1:
        for task in self.tasks:
            if task not in self.tokenizer.task_prefixes:
                raise ValueError(f"tokenizer.task_prefixes lacks the task {task!r}")
        return self


def translate(data: bytes) -> Manifest:
    """The version-2 value of a version-1 manifest's JSON text.

    Raises:
        pydantic.ValidationError: for what version 1 did not allow, or parts that do not agree.
    """
    old = Version1.model_validate_json(data, strict=True)
    drive = driving(_facts(old))
    tokenizer = {old.tokenizer.file.path: old.tokenizer.file.bytes}
    targets = {name: _target(target, tokenizer) for name, target in old.targets.items()}
    files = {
        **tokenizer,
        **{entry.path: entry.bytes for target in targets.values() for entry in target.entries()},
    }
    golden = [*old.golden.components.values(), *(item.file for item in old.golden.trajectories)]
    return Manifest(
        **{name: getattr(drive, name) for name in type(drive).model_fields},
        schema_version=2,
        model=ModelEntry(name=str(old.model.get("name"))[:500].replace("\n", " "), config=old.model),
        bytes=sum({**files, **{entry.path: entry.bytes for entry in golden}}.values()),
        sizes=tuple(SizeEntry(**dict(item)) for item in old.sizes),
        noise=old.noise,
        components={key: _component(item) for key, item in old.components.items()},
        targets=targets,
        golden=Golden(
            components=old.golden.components,
            trajectories=tuple(
                Trajectory(**dict(item), renamed=_TENSORS) for item in old.golden.trajectories
            ),
        ),
        provenance=Provenance(**dict(old.provenance)),
    )


def _facts(old: Version1) -> Facts:
    tokenizer, sampler, guidance = old.tokenizer, old.sampler, old.sampler.guidance
    networks = [item for item in old.components.values() if item.role.startswith("denoiser")]
    return Facts(
        tokenizer=tokenizer.file, length=tokenizer.max_length, pad=tokenizer.pad, bos=tokenizer.bos,
        eos=tokenizer.eos, prefixes={str(task): index for task, index in tokenizer.task_prefixes.items()},
        timesteps=sampler.timesteps, guidance=None if guidance == "folded" else (guidance.text, guidance.image),
        preserve_distances=sampler.unchanged, latent=old.latent, tasks=old.tasks,
        inputs=frozenset(tensor.name for item in networks for tensor in item.inputs),
        has_image_encoder=any(item.role == IMAGE_ENCODER for item in old.components.values()),
    )  # fmt: skip


def _component(old: _Component) -> Component:
    inputs, outputs = (tuple(TensorSpec(**dict(item)) for item in side) for side in (old.inputs, old.outputs))
    return Component(role=old.role, size=old.size, inputs=inputs, outputs=outputs)


def _target(old: _Target, tokenizer: dict[str, int]) -> Target:
    parts = [entry for entries in old.parts.values() for entry in entries]
    files = [*old.files.values(), *parts, *old.shared_files]
    values = {name: getattr(old, name) for name in type(old).model_fields if name != "quality"}
    return Target(
        **values,
        bytes=sum({**tokenizer, **{entry.path: entry.bytes for entry in files}}.values()),
        quality={size: _quality(item) for size, item in old.quality.items()},
    )


def _quality(old: _Quality) -> Quality:
    limits = old.limits
    return Quality(
        images=old.images, psnr_median_db=old.psnr_median_db, psnr_worst_db=old.psnr_worst_db,
        guidance_norm_ratio=old.survival, state_drift=old.plan_drift,
        limits=QualityLimits(
            psnr_median_db=limits.psnr_median_db, psnr_worst_db=limits.psnr_worst_db,
            guidance_norm_ratio_low=limits.survival_low, guidance_norm_ratio_high=limits.survival_high,
            state_drift=limits.plan_drift,
        ),
    )  # fmt: skip
