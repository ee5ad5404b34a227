"""What a bundle holds for one engine: part of the manifest (``microforge.bundle``), and its files' entries.

Every byte count is in bytes. No torch, no file access.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

TargetName = Literal["onnx", "coreml", "executorch"]
Precision = Literal["fp32", "fp16", "int8"]


def check_relative_path(path: str) -> str:
    """``path`` when it is a plain relative POSIX path that cannot leave the folder it is relative to.

    Raises:
        ValueError: otherwise.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in '\\:*?"<>|' or ord(c) < 32 for c in path):
        raise ValueError(f"path {path!r} must be relative, with / between names and no . or .. among them")
    return path


RelativePath = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(check_relative_path)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Entry(BaseModel):
    """Base of everything in a manifest: values that do not change, and no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(Entry):
    """One file of the bundle; its hash is checked before it is opened."""

    path: RelativePath
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Parity(Entry):
    """Difference from the reference, measured through the shipped runtime; identical counts as 200 dB."""

    psnr_db: float
    max_abs: Annotated[float, Field(ge=0)]
    threshold_db: float


class ImageParity(Entry):
    """Largest difference of any pixel of a whole drawing from the reference, in 1/255."""

    max_abs_255: Annotated[float, Field(ge=0)]
    threshold: Annotated[float, Field(ge=0)]


class Memory(Entry):
    """Predicted bytes while one component runs; ``arena`` is what the engine's own plan in the file reserves
    (inputs, outputs and results outside delegates), and part of ``activations``; null where it plans later."""

    weights: Annotated[int, Field(ge=0)]
    activations: Annotated[int, Field(ge=0)]
    peak: Annotated[int, Field(ge=0)]
    arena: Annotated[int, Field(ge=0)] | None = None


class Coverage(Entry):
    """How much of a component runs in the engine's delegates: ``delegated`` of its ``operators``, in
    ``delegates`` pieces. ``outside`` says for every other operator why it is not among them."""

    operators: Annotated[int, Field(ge=0)]
    delegated: Annotated[int, Field(ge=0)]
    delegates: Annotated[int, Field(ge=0)]
    outside: dict[str, str] = {}

    @model_validator(mode="after")
    def _delegated_are_operators(self) -> Coverage:
        if self.delegated > self.operators:
            raise ValueError(f"{self.delegated} of {self.operators} operators cannot be delegated")
        return self


class QualityLimits(Entry):
    """What ``Quality`` must reach: PSNR at least, survival between, drift at most."""

    psnr_median_db: float
    psnr_worst_db: float
    survival_low: float
    survival_high: float
    plan_drift: float


class Quality(Entry):
    """A quantized target at one size against the reference, over ``images`` whole drawings from the same noise.

    ``survival`` is what quantization leaves of the prompt's effect: norm of the conditional minus the empty
    velocity over the reference's. ``plan_drift`` is the largest distance of a plan state after the last step,
    relative to the reference's norm.
    """

    images: Annotated[int, Field(ge=1)]
    psnr_median_db: float
    psnr_worst_db: float
    survival: Annotated[float, Field(ge=0)]
    plan_drift: Annotated[float, Field(ge=0)]
    limits: QualityLimits


class Target(Entry):
    """The files of one engine; all but ``shared_files``, ``tasks``, ``operators`` and ``quality`` are keyed like ``components``.

    Several components may have one file: an ExecuTorch program holds a method per component, named by its
    key. ``parts`` are further files of a component alone, ``shared_files`` those that all components need,
    ``shared_sha256`` of what a component reads in them, which tells whom a damaged one hurts.
    ``tasks`` has the worst drawing of every task, ``image`` the worst of all.
    ``precisions`` names the components that are not in ``precision``; ``quality`` has an entry per size
    ("256x384") where the target is quantized.
    """

    precision: Precision
    files: dict[str, FileEntry]
    parts: dict[str, tuple[FileEntry, ...]] = {}
    shared_files: tuple[FileEntry, ...] = ()
    shared_sha256: dict[str, Sha256] = {}
    parity: dict[str, Parity] = {}
    image: ImageParity | None = None
    tasks: dict[str, ImageParity] = {}
    precisions: dict[str, Precision] = {}
    quality: dict[str, Quality] = {}
    memory: dict[str, Memory] = {}
    operators: dict[str, Annotated[int, Field(ge=0)]] = {}
    coverage: dict[str, Coverage] = {}
    delegated_fraction: Annotated[float, Field(ge=0, le=1)] | None = None

    def entries(self) -> tuple[FileEntry, ...]:
        """Every file of the target, each once."""
        parts = (entry for entries in self.parts.values() for entry in entries)
        found = {entry.path: entry for entry in (*self.files.values(), *parts, *self.shared_files)}
        return tuple(found.values())
