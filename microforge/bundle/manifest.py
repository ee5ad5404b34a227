"""The bundle manifest: the only contract between Python and every device (docs/bundle.md).

Pydantic models for ``manifest.json``, schema version 1; ``microforge.bundle.targets`` has those of one engine.
No torch, no file access: reading, hashing and writing live in ``microforge.bundle.files``. Shapes are static, with batch 1; every size is in pixels or
latent cells, every byte count in bytes. ``python -m microforge.bundle`` prints the JSON Schema.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from microforge.bundle.targets import Entry, FileEntry, Sha256, Target, TargetName

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"

Role = Literal["text_encoder", "denoiser", "denoiser_edit", "vae_decoder", "vae_encoder"]
Task = Literal["generate", "edit", "inpaint", "super-resolve"]
#: What a drawing runs, in this order.
DRAWING: tuple[Role, ...] = ("text_encoder", "denoiser", "vae_decoder")
DType = Literal["float32", "float16", "int64", "int32"]


@dataclass(frozen=True)
class Interface:
    """Tensor names of a component: what it must and may take, and what it must give."""

    required: frozenset[str]
    optional: frozenset[str]
    outputs: frozenset[str]


def _interface(required: str, optional: str, outputs: str) -> Interface:
    return Interface(frozenset(required.split()), frozenset(optional.split()), frozenset(outputs.split()))


#: A runtime feeds a component exactly the inputs that its entry lists. Plan tensors come together or not at all.
INTERFACES: Mapping[Role, Interface] = {
    "text_encoder": _interface("ids", "mask", "text pooled"),
    "denoiser": _interface("z t text", "mask pooled plan has_plan", "velocity"),
    "denoiser_edit": _interface("z t text source", "mask pooled plan has_plan", "velocity"),
    "vae_decoder": _interface("latent", "", "image"),
    "vae_encoder": _interface("image", "", "latent"),
}
PLAN_INPUTS = frozenset({"plan", "has_plan"})
NEXT_PLAN = "next_plan"

Side = Annotated[int, Field(ge=1)]
Shape = tuple[Side, ...]
TokenId = Annotated[int, Field(ge=0)]


class Size(Entry):
    """An image size in pixels."""

    height: Side
    width: Side

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


class SizeEntry(Size):
    """An image size that the bundle can draw, and the latent (C, h, w) that belongs to it."""

    latent_shape: tuple[Side, Side, Side]

    @property
    def size(self) -> Size:
        return Size(height=self.height, width=self.width)


class TensorSpec(Entry):
    """An input or output of a component: static shape, batch 1 included."""

    name: Annotated[str, Field(min_length=1)]
    shape: Shape
    dtype: DType


class Component(Entry):
    """A network of the bundle. ``size`` is null for the text encoder, which serves every size."""

    role: Role
    size: Size | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @model_validator(mode="after")
    def _names_fit_the_role(self) -> Component:
        face = INTERFACES[self.role]
        inputs, outputs = [spec.name for spec in self.inputs], [spec.name for spec in self.outputs]
        if len(set(inputs)) != len(inputs) or len(set(outputs)) != len(outputs):
            raise ValueError(f"{self.role} names a tensor twice")
        for missing in sorted((face.required - set(inputs)) | (face.outputs - set(outputs))):
            raise ValueError(f"{self.role} lacks the tensor {missing!r}")
        plan = PLAN_INPUTS & set(inputs)
        for unknown in sorted(set(inputs) - face.required - face.optional):
            raise ValueError(f"{self.role} has an input {unknown!r} that no runtime can feed")
        if plan and (plan != PLAN_INPUTS or NEXT_PLAN not in outputs):
            raise ValueError(
                f"{self.role} must have all of plan, has_plan and the output {NEXT_PLAN}, or none"
            )
        if (self.size is None) != (self.role == "text_encoder"):
            raise ValueError(f"{self.role} with size {self.size}: only the text encoder has none")
        return self

    def input(self, name: str) -> TensorSpec | None:
        """The input called ``name``, or None when this component does not take it."""
        return next((spec for spec in self.inputs if spec.name == name), None)


class Guidance(Entry):
    """Classifier-free guidance scales; 1 is off and needs no empty-prompt evaluation."""

    text: float
    image: float


class Sampler(Entry):
    """Euler steps ``z + (t_next - t) * v`` along literal times that fall from 1.0 to 0.0."""

    timesteps: Annotated[tuple[float, ...], Field(min_length=2)]
    guidance: Literal["folded"] | Guidance
    prediction: Literal["velocity"]
    #: Of an edit: see "Drawing from a source" in docs/bundle.md; null leaves it out.
    unchanged: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _unchanged_rises(self) -> Sampler:
        if self.unchanged is not None and not 0.0 <= self.unchanged[0] < self.unchanged[1]:
            raise ValueError("unchanged must be two rising distances from 0")
        return self

    @model_validator(mode="after")
    def _falls_from_one_to_zero(self) -> Sampler:
        grid = self.timesteps
        if grid[0] != 1.0 or grid[-1] != 0.0 or any(b >= a for a, b in itertools.pairwise(grid)):
            raise ValueError("timesteps must fall strictly from 1.0 to 0.0")
        return self

    @property
    def steps(self) -> int:
        return len(self.timesteps) - 1


class Latent(Entry):
    """The networks' latent is ``(vae latent - mean) / std`` per channel; see each size for its shape."""

    channels: Side
    downsample: Side
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _one_number_per_channel(self) -> Latent:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean has {len(self.mean)} and std {len(self.std)} numbers for {self.channels} channels"
            )
        return self


class Tokenizer(Entry):
    """The prompt tokenizer: a Hugging Face ``tokenizer.json`` and the ids around the prompt's own tokens.

    An encoded prompt is ``bos, task prefix, tokens..., eos`` and then ``pad`` up to ``max_length`` (L).
    """

    file: FileEntry
    max_length: Annotated[int, Field(ge=4)]
    pad: TokenId
    bos: TokenId
    eos: TokenId
    task_prefixes: dict[Task, TokenId]


class Trajectory(Entry):
    """One whole drawing for a runtime to replay; docs/bundle.md lists the tensors of ``file``."""

    task: Task
    size: Size
    prompt: str
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    file: FileEntry


class Golden(Entry):
    """Reference inputs and outputs (safetensors): per component key, and whole trajectories."""

    components: dict[str, FileEntry] = Field(default={})
    trajectories: tuple[Trajectory, ...] = ()


class Provenance(Entry):
    """Where the bundle comes from: weight file hash, package versions, ISO 8601 time (UTC)."""

    checkpoint_sha256: Sha256
    versions: dict[str, str]
    created: str


class Manifest(Entry):
    """``manifest.json`` of a bundle."""

    schema_version: Literal[1]
    model: dict[str, JsonValue]
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    sizes: Annotated[tuple[SizeEntry, ...], Field(min_length=1)]
    sampler: Sampler
    latent: Latent
    noise: Literal["philox4x32-10/box-muller"]
    tokenizer: Tokenizer
    components: dict[str, Component]
    targets: dict[TargetName, Target]
    golden: Golden = Golden()
    provenance: Provenance

    @model_validator(mode="after")
    def _parts_agree(self) -> Manifest:
        _check_sizes(self)
        _check_components(self)
        for target_name, target in self.targets.items():
            for what in ("files", "parts", "parity", "precisions", "memory", "coverage"):
                for key in getattr(target, what):
                    _known(self, key, f"targets.{target_name}.{what}")
            for task in target.tasks:
                if task not in self.tasks:
                    raise ValueError(f"targets.{target_name}.tasks names {task!r}, which is not in tasks")
            for key in target.quality:
                if key not in {str(entry.size) for entry in self.sizes}:
                    raise ValueError(f"targets.{target_name}.quality has size {key}, which is not in sizes")
        for task in self.tasks:
            if task not in self.tokenizer.task_prefixes:
                raise ValueError(f"tokenizer.task_prefixes lacks the task {task!r}")
        for key in self.golden.components:
            _known(self, key, "golden.components")
        for trajectory in self.golden.trajectories:
            if str(trajectory.size) not in {str(entry.size) for entry in self.sizes}:
                raise ValueError(f"golden.trajectories has size {trajectory.size}, which is not in sizes")
        return self

    def find(self, role: Role, size: Size | None = None) -> str | None:
        """Key of the component with this role and size (None for the text encoder), or None."""
        for key, component in self.components.items():
            if component.role == role and str(component.size) == str(size):
                return key
        return None


def _known(manifest: Manifest, key: str, where: str) -> None:
    if key not in manifest.components:
        raise ValueError(f"{where} names a component {key!r} that is not in components")


def _check_sizes(manifest: Manifest) -> None:
    latent = manifest.latent
    for entry in manifest.sizes:
        cells = (latent.channels, entry.height // latent.downsample, entry.width // latent.downsample)
        if entry.latent_shape != cells or entry.height % latent.downsample or entry.width % latent.downsample:
            raise ValueError(
                f"size {entry.size} with latent_shape {list(entry.latent_shape)} does not fit the latent"
            )
    if len({str(entry.size) for entry in manifest.sizes}) != len(manifest.sizes):
        raise ValueError("sizes names one size twice")


def _check_components(manifest: Manifest) -> None:
    shapes = {str(entry.size): entry.latent_shape for entry in manifest.sizes}
    seen: set[tuple[str, str]] = set()
    for key, component in manifest.components.items():
        pair = (component.role, str(component.size))
        if pair in seen:
            raise ValueError(f"components holds two {component.role} of size {component.size}")
        seen.add(pair)
        if component.size is None:
            continue
        if str(component.size) not in shapes:
            raise ValueError(f"component {key!r} has size {component.size}, which is not in sizes")
        latent = (1, *shapes[str(component.size)])
        image = (1, 3, component.size.height, component.size.width)
        fixed = {"z": latent, "velocity": latent, "source": latent, "latent": latent, "image": image}
        for spec in (*component.inputs, *component.outputs):
            if spec.shape != fixed.get(spec.name, spec.shape):
                raise ValueError(
                    f"component {key!r}: {spec.name} has shape {list(spec.shape)}, not {list(fixed[spec.name])}"
                )


def schema_text() -> str:
    """JSON Schema (draft 2020-12) of ``manifest.json``, as checked in at docs/bundle.schema.json."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**draft, **Manifest.model_json_schema()}, indent=1, sort_keys=True) + "\n"
