"""What a bundle holds for one engine: part of the manifest (``microforge.bundle``), and its files' entries.

Every byte count is in bytes. No torch, no file access.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from microforge.bundle.entry import Bytes, DecibelValue, Entry, FileEntry, Key, Line, Name, Sha256

TargetName = Literal["onnx", "coreml", "executorch", "litert"]
Precision = Literal["fp32", "fp16", "int8"]
#: "256x384": height x width, as ``str(Size)``.
SizeName = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}x[1-9][0-9]{0,6}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 31)]
Ratio = Annotated[float, Field(ge=0, le=1e9)]
OperatorName = Annotated[str, Field(min_length=1, max_length=256)]


class Parity(Entry):
    """Difference from the reference, measured through the shipped runtime; identical counts as 200 dB."""

    psnr_db: DecibelValue
    max_abs: Annotated[float, Field(ge=0)]
    threshold_db: DecibelValue


class ImageParity(Entry):
    """Largest difference of any pixel of a whole sample from the reference, in 1/255."""

    max_abs_255: Annotated[float, Field(ge=0)]
    threshold: Annotated[float, Field(ge=0)]


class Memory(Entry):
    """Predicted bytes while one component runs; ``arena`` is what the engine's own plan in the file reserves
    (inputs, outputs and results outside delegates), and part of ``activations``; null where it plans later."""

    weights: Bytes
    activations: Bytes
    peak: Bytes
    arena: Bytes | None = None


class Coverage(Entry):
    """How much of a component runs in the engine's delegates: ``delegated`` of its ``operators``, in
    ``delegates`` pieces. ``outside`` says for every other operator why it is not among them."""

    operators: Count
    delegated: Count
    delegates: Count
    outside: dict[OperatorName, Line] = Field(default={}, max_length=1000)

    @model_validator(mode="after")
    def _delegated_are_operators(self) -> Coverage:
        if self.delegated > self.operators:
            raise ValueError(f"{self.delegated} of {self.operators} operators cannot be delegated")
        return self


class QualityLimits(Entry):
    """What ``Quality`` must reach: PSNR at least, the guidance-norm ratio between, the state error at most."""

    psnr_median_db: DecibelValue
    psnr_worst_db: DecibelValue
    guidance_norm_ratio_low: Ratio
    guidance_norm_ratio_high: Ratio
    state_drift: Ratio | None = None


class Quality(Entry):
    """A quantized target at one size against the reference, over ``images`` whole samples from the same noise.

    ``guidance_norm_ratio`` is what quantization leaves of the prompt's effect: the norm of the conditional minus the
    unconditional output, over the reference's. ``state_drift`` is the largest relative error of a carried state after
    the last step; null for a model without one.
    """

    images: Annotated[int, Field(ge=1, lt=1 << 31)]
    psnr_median_db: DecibelValue
    psnr_worst_db: DecibelValue
    guidance_norm_ratio: Ratio
    state_drift: Ratio | None
    limits: QualityLimits


class PeakBytes(Entry):
    """Predicted peak bytes of the process: all stages kept loaded, or each loaded for its turn and freed after it."""

    resident: Bytes
    staged: Bytes


class Target(Entry):
    """The files of one engine; all but ``shared_files``, ``tasks``, ``operators``, ``quality`` and ``peaks`` are keyed
    like ``components``.

    Several components may have one file: an ExecuTorch program holds a method per component, and a LiteRT model a
    signature, named by its key. ``parts`` are further files of a component alone, ``shared_files`` those that all components need,
    ``shared_sha256`` of what a component reads in them, which tells which ones a damaged file hurts.
    ``tasks`` has the worst sample of every task, ``image`` the worst of all. ``precisions`` names the components
    that are not in ``precision``; ``quality`` has an entry per size ("256x384") where the target is quantized.
    ``bytes`` is what an app fetches for this engine beside the manifest; ``peaks`` what its process then needs, per
    size, where it can be predicted.
    """

    precision: Precision
    bytes: Bytes
    files: dict[Key, FileEntry] = Field(max_length=256)
    parts: dict[Key, Annotated[tuple[FileEntry, ...], Field(max_length=256)]] = Field(
        default={}, max_length=256
    )
    shared_files: Annotated[tuple[FileEntry, ...], Field(max_length=256)] = ()
    shared_sha256: dict[Key, Sha256] = Field(default={}, max_length=256)
    parity: dict[Key, Parity] = Field(default={}, max_length=256)
    image: ImageParity | None = None
    tasks: dict[Name, ImageParity] = Field(default={}, max_length=32)
    precisions: dict[Key, Precision] = Field(default={}, max_length=256)
    quality: dict[SizeName, Quality] = Field(default={}, max_length=64)
    memory: dict[Key, Memory] = Field(default={}, max_length=256)
    peaks: dict[SizeName, PeakBytes] = Field(default={}, max_length=64)
    operators: dict[OperatorName, Count] = Field(default={}, max_length=1000)
    coverage: dict[Key, Coverage] = Field(default={}, max_length=256)
    delegated_fraction: Annotated[float, Field(ge=0, le=1)] | None = None

    def entries(self) -> tuple[FileEntry, ...]:
        """Every file of the target, each once."""
        parts = (entry for entries in self.parts.values() for entry in entries)
        by_path = {entry.path: entry for entry in (*self.files.values(), *parts, *self.shared_files)}
        return tuple(by_path.values())
