"""The keys of a manifest, schema version 2: what ``Manifest`` checks and gives a meaning to. No torch, no file access."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from microforge.bundle.entry import (
    Bytes,
    Entry,
    FileEntry,
    Key,
    Line,
    Name,
    Seed,
    Sha256,
    Shape,
    Side,
    Size,
    TensorName,
)
from microforge.bundle.inputs import Bindings, DType, EncoderEntry, Number, Tokenizer, UserParameter
from microforge.bundle.sampling import DecoderEntry, LatentSpace, Preview, SamplerTable, Scale, State, Task
from microforge.bundle.targets import Target, TargetName


class SizeEntry(Size):
    """An image size that the bundle can make, and the latent (C, h, w) that belongs to it."""

    latent_shape: tuple[Side, Side, Side]

    @property
    def size(self) -> Size:
        return Size(height=self.height, width=self.width)


class TensorSpec(Entry):
    """An input or output of a component: static shape, batch 1 included.

    ``default`` is what a runtime feeds to an input that nothing binds: zeros, or literal numbers in the order of its
    elements (or one number for all).
    """

    name: TensorName
    shape: Shape
    dtype: DType
    default: Literal["zeros"] | Annotated[tuple[Number, ...], Field(min_length=1, max_length=4096)] | None = (
        None
    )


class Component(Entry):
    """A network of the bundle. ``size`` is null for one that serves every size."""

    role: Name
    size: Size | None
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Component:
        for specs in (self.inputs, self.outputs):
            if len({spec.name for spec in specs}) != len(specs):
                raise ValueError(f"{self.role} names a tensor twice")
        return self

    def input(self, name: str) -> TensorSpec | None:
        """The input called ``name``, or None when this component does not take it."""
        return next((spec for spec in self.inputs if spec.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        """The output called ``name``, or None when this component does not give it."""
        return next((spec for spec in self.outputs if spec.name == name), None)


class ModelEntry(Entry):
    """The model for people and apps. ``config`` is the source library's own; no runtime needs it."""

    name: Line
    description: Line = ""
    #: SPDX identifier of the weights' licence.
    licence: Line = ""
    #: Of prompts, as BCP 47 tags.
    languages: Annotated[tuple[Annotated[str, Field(max_length=35)], ...], Field(max_length=200)] = ()
    config: dict[str, JsonValue] = Field(default={})


class Trajectory(Entry):
    """One whole sample for a runtime to replay; docs/bundle.md lists the tensors of ``file``.

    ``renamed``: standard tensor name -> its name in the file, where they differ.
    """

    task: Name
    size: Size
    prompt: Annotated[str, Field(max_length=10_000)]
    seed: Seed
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    file: FileEntry
    renamed: dict[TensorName, TensorName] = Field(default={}, max_length=64)


class Golden(Entry):
    """Reference inputs and outputs (safetensors): per component key, and whole trajectories."""

    components: dict[Key, FileEntry] = Field(default={}, max_length=256)
    trajectories: Annotated[tuple[Trajectory, ...], Field(max_length=256)] = ()


class Provenance(Entry):
    """Where the bundle comes from: weight file hash, package versions, ISO 8601 time (UTC)."""

    checkpoint_sha256: Sha256
    versions: dict[Annotated[str, Field(max_length=100)], Line] = Field(max_length=100)
    created: Annotated[str, Field(max_length=64)]


class Driving(Entry):
    """How a model's components are run, for every task: what a provider says beside the components themselves."""

    latent: LatentSpace
    tokenizers: dict[Name, Tokenizer] = Field(default={}, max_length=8)
    encoders: dict[Name, EncoderEntry] = Field(default={}, max_length=8)
    #: Where the networks' inputs come from, by input name; a network takes those that it has.
    conditions: Bindings
    state: Annotated[tuple[State, ...], Field(max_length=8)] = ()
    guidance: dict[Name, Scale] = Field(default={}, max_length=8)
    parameters: dict[Name, UserParameter] = Field(default={}, max_length=16)
    #: The first table is the default.
    samplers: Annotated[tuple[SamplerTable, ...], Field(min_length=1, max_length=128)]
    #: The first task is the default.
    tasks: dict[Name, Task] = Field(min_length=1, max_length=32)
    decode: DecoderEntry
    preview: Preview | None = None


class Layout(Driving):
    """The keys of ``manifest.json``. ``bytes`` is the sum of all files that it names, each once."""

    schema_version: Literal[2]
    model: ModelEntry
    bytes: Bytes
    sizes: Annotated[tuple[SizeEntry, ...], Field(min_length=1, max_length=64)]
    noise: Literal["philox4x32-10/box-muller"]
    components: dict[Key, Component] = Field(max_length=256)
    targets: dict[TargetName, Target]
    golden: Golden = Golden()
    provenance: Provenance

    def find(self, role: str, size: Size | None = None) -> str | None:
        """Key of the component with this role at ``size``, or of the one that serves every size; None without one."""
        every = None
        for key, component in self.components.items():
            if component.role == role:
                if component.size is not None and str(component.size) == str(size):
                    return key
                every = key if component.size is None else every
        return every

    def files(self) -> tuple[FileEntry, ...]:
        """Every file that the manifest names, each once."""
        entries = [item.file for item in self.tokenizers.values()] + list(self.golden.components.values())
        entries += [item.file for item in self.golden.trajectories]
        for target in self.targets.values():
            entries += target.entries()
        return tuple({entry.path: entry for entry in entries}.values())
