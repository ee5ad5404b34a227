"""The configuration of a model as plain numbers; no torch, safe to read on a device.

``PRESETS`` holds the four sizes of SPEC section 2. A ``ModelSpec`` converts to and from the
``config.json`` of a checkpoint and the ``model`` entry of a bundle manifest.

Letters of shapes are those of ``docs/glossary.md``: B batch, L text tokens, N latent tokens, K plan tokens,
D width, C latent channels, E text width, H W image height and width in pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from microforge.errors import SpecError
from microforge.io.image_size import SizeInput, check_size, parse_size, read_size, shown

__all__ = [
    "PRESETS", "TASKS", "BackboneSpec", "ModelSpec", "PlannerSpec", "SamplerSpec", "SizeInput", "TextEncoderSpec", "VAESpec",
    "check_proportion", "check_size", "from_dict", "parse_size", "preset", "read_size", "to_dict",
]  # fmt: skip

SpecT = TypeVar("SpecT")

#: The tasks; each has a reserved token that starts a prompt.
TASKS = ("generate", "edit", "inpaint", "super-resolve")
#: Most that a count in a configuration may be: a file of a few bytes must not ask for a model beyond any machine.
MAX_BLOCKS, MAX_WIDTH, MAX_TIMESTEPS, MAX_SIDE = 512, 1 << 16, 10_000, 8192
#: Setting -> least and most it may be, where that is not 1 to ``MAX_WIDTH``.
_RANGES: Mapping[str, tuple[int, int]] = {
    "depth": (1, MAX_BLOCKS), "mid_depth": (0, MAX_BLOCKS), "num_layers": (0, MAX_BLOCKS),
    "encoder_depths": (0, MAX_BLOCKS), "decoder_depths": (0, MAX_BLOCKS), "conv_kernel": (1, 31), "state_dim": (1, 1024),
    "ffn_expansion": (1, 16), "adaln_groups": (1, 64), "num_plan_tokens": (1, 4096), "max_length": (1, 16_384),
    "vocab_size": (1, 1 << 22), "native_size": (1, MAX_SIDE), "dense_limit": (0, 1 << 30),
}  # fmt: skip


def _check_counts(spec: object) -> None:
    """Refuse integers of ``spec`` out of any sensible range.

    Raises:
        SpecError: names the setting and its range.
    """
    for item in fields(spec):  # type: ignore[arg-type]
        value = getattr(spec, item.name)
        least, most = _RANGES.get(item.name, (1, MAX_WIDTH))
        for number in value if isinstance(value, tuple) else (value,):
            if type(number) is int and not least <= number <= most:
                raise SpecError(f"{item.name} has {shown(number)}; allowed: {least} to {most}")


def _check_heads(name: str, dim: int, **heads: int) -> None:
    for key, count in heads.items():
        if dim % count:
            raise SpecError(f"{name} {key} is {count}; it must divide the width {dim}")


@dataclass(frozen=True)
class VAESpec:
    """Deep-compression autoencoder (DC-AE, arXiv 2410.10733), which divides both sides by ``stem_factor * 2**3``."""

    channels: tuple[int, int, int, int]
    latent_channels: int
    encoder_depths: tuple[int, int, int, int]
    decoder_depths: tuple[int, int, int, int]
    mid_depth: int
    stem_factor: int = 4
    latent_mean: tuple[float, ...] = ()  # per channel, measured on the training set; () = zeros
    latent_std: tuple[float, ...] = ()  # per channel; () = ones
    alpha: bool = False  # a fourth channel of the decoder: how much of each pixel objects cover

    def __post_init__(self) -> None:
        _check_counts(self)
        if self.stem_factor not in (2, 4, 8):
            raise SpecError(f"stem_factor is {self.stem_factor}; allowed: 2, 4, 8")
        for name in ("latent_mean", "latent_std"):
            values = getattr(self, name)
            if values and len(values) != self.latent_channels:
                raise SpecError(
                    f"{name} has {len(values)} numbers for {self.latent_channels} latent channels"
                )
        if any(value <= 0.0 for value in self.latent_std):
            raise SpecError(f"latent_std has {min(self.latent_std)}; allowed: above 0")

    @property
    def downsample(self) -> int:
        """The downsampling factor of both sides: 32 with the default stem."""
        return self.stem_factor * 8

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of raw latents per channel; zeros when it was not measured."""
        return self.latent_mean or (0.0,) * self.latent_channels

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of raw latents per channel; ones when it was not measured."""
        return self.latent_std or (1.0,) * self.latent_channels


@dataclass(frozen=True)
class BackboneSpec:
    """Denoiser backbone: bidirectional SSM with convolutions, and one shared attention block (SPEC section 3)."""

    depth: int
    dim: int
    attn_every: int = 3  # the one shared MQA block follows every `attn_every`-th block
    attn_heads: int = 4  # query heads of the shared MQA; it has one key/value head
    head_dim: int = 64  # SSM head width
    state_dim: int = 16  # SSM state per head
    max_decay: float = 0.5  # a_max: log decay per token lies in (-a_max, 0)
    cross_heads: int = 4
    ffn_expansion: int = 3
    conv_kernel: int = 3  # depth-wise conv inside the mixer
    scan_paths: int = 4  # zigzag paths cycled by depth (1, 2 or 4)
    adaln_groups: int = 3
    chunk: int = 64
    dense_limit: int = 512  # up to this many tokens the dense SSM form, beyond it the chunked one
    use_ssm: bool = True  # False: full attention as the mixer (ablation A2)
    use_shared_attention: bool = True  # ablation A3
    use_conv: bool = True  # ablation A4
    aligned_source: bool = False  # position-aligned source features (decision 0004)

    def __post_init__(self) -> None:
        _check_counts(self)
        if self.dim % self.head_dim:
            raise SpecError(f"backbone dim {self.dim} is not a multiple of head_dim {self.head_dim}")
        _check_heads("backbone", self.dim, attn_heads=self.attn_heads, cross_heads=self.cross_heads)
        if self.scan_paths not in (1, 2, 4):
            raise SpecError(f"scan_paths is {self.scan_paths}; allowed: 1, 2, 4")
        if not 0 < self.max_decay <= 0.5:
            raise SpecError(f"max_decay is {self.max_decay}; allowed: above 0, at most 0.5")


@dataclass(frozen=True)
class PlannerSpec:
    """Recurrent latent planner (RIN, arXiv 2212.11972)."""

    depth: int
    dim: int
    num_plan_tokens: int = 32
    heads: int = 4
    ffn_expansion: int = 3
    self_conditioning: bool = True  # ablation A5

    def __post_init__(self) -> None:
        _check_counts(self)
        _check_heads("planner", self.dim, heads=self.heads)


@dataclass(frozen=True)
class TextEncoderSpec:
    """The built-in ``SimpleTextEncoder``; ``embed_dim`` is E for every consumer of text."""

    embed_dim: int = 256
    num_layers: int = 2
    heads: int = 4
    vocab_size: int = 8192
    max_length: int = 64

    def __post_init__(self) -> None:
        _check_counts(self)
        _check_heads("text encoder", self.embed_dim, heads=self.heads)


@dataclass(frozen=True)
class SamplerSpec:
    """How images are sampled: the times from 1 to 0 and the guidance scales (1 = off)."""

    timesteps: tuple[float, ...] = tuple(1.0 - i / 32 for i in range(33))
    text_guidance: float = 3.5
    image_guidance: float = 1.5
    guidance_distilled: bool = False  # True after step distillation: one evaluation per step
    #: Edit: below the first distance (in standard deviations) a latent is copied from the source, above the second it is
    #: kept as sampled, between them the two are blended (``latent_blending``); None: every latent is kept as sampled.
    preserve_distances: tuple[float, float] | None = (0.5, 0.9)

    def __post_init__(self) -> None:
        if (
            self.preserve_distances is not None
            and not 0.0 <= self.preserve_distances[0] < self.preserve_distances[1]
        ):
            raise SpecError(
                f"sampler preserve_distances is {list(self.preserve_distances)}; allowed: two rising distances from 0, or null"
            )
        grid = self.timesteps
        if len(grid) > MAX_TIMESTEPS:
            raise SpecError(f"sampler has {len(grid)} timesteps; at most {MAX_TIMESTEPS} are allowed")
        if len(grid) < 2 or grid[0] != 1.0 or grid[-1] != 0.0:
            raise SpecError("sampler timesteps must start at 1.0 and end at 0.0")
        if any(b >= a for a, b in itertools.pairwise(grid)):
            raise SpecError("sampler timesteps must fall strictly from 1.0 to 0.0")


@dataclass(frozen=True)
class ModelSpec:
    """One model: its modules, its sampler, the image size it was trained at and the tasks it was trained in."""

    name: str
    vae: VAESpec
    backbone: BackboneSpec
    planner: PlannerSpec
    text_encoder: TextEncoderSpec = field(default_factory=TextEncoderSpec)
    sampler: SamplerSpec = field(default_factory=SamplerSpec)
    native_size: tuple[int, int] = (256, 256)  # height, width in pixels
    tasks: tuple[str, ...] = ("generate",)

    def __post_init__(self) -> None:
        _check_counts(self)
        if self.planner.dim != self.backbone.dim:
            raise SpecError(f"planner dim {self.planner.dim} differs from backbone dim {self.backbone.dim}")
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown:
            raise SpecError(f"unknown task {shown(unknown[0])}; allowed: {', '.join(TASKS)}")

    @property
    def latent_channels(self) -> int:
        """C, the channels of a latent."""
        return self.vae.latent_channels


def check_proportion(spec: ModelSpec, elements: int) -> None:
    """Refuse a configuration whose matrices alone have more numbers than the weights' ``elements``.

    So that no memory is taken for what a small file only announces.

    Raises:
        SpecError: names both counts.
    """
    vae, backbone, text = spec.vae, spec.backbone, spec.text_encoder
    stages = zip(vae.channels, vae.encoder_depths, vae.decoder_depths, strict=True)
    needed = sum(9 * 2 * width**2 * (down + up) for width, down, up in stages)
    needed += sum(9 * inner * outer // 4 for inner, outer in itertools.pairwise(vae.channels))
    needed += (backbone.depth + spec.planner.depth) * backbone.dim**2
    needed += text.vocab_size * text.embed_dim + text.num_layers * text.embed_dim**2
    if needed > elements:
        raise SpecError(
            f"the configuration {shown(spec.name)} needs at least {needed:,} weights, the checkpoint has {elements:,}"
        )


def _preset(
    name: str, vae: VAESpec, depth: int, dim: int, planner_depth: int, text: TextEncoderSpec, size: int
) -> ModelSpec:
    return ModelSpec(
        name=name, vae=vae, text_encoder=text, native_size=(size, size),
        backbone=BackboneSpec(depth=depth, dim=dim, attn_every=2 if depth < 6 else 3, aligned_source=True),
        planner=PlannerSpec(depth=planner_depth, dim=dim, num_plan_tokens=16 if depth < 6 else 32),
    )  # fmt: skip


PRESETS: Mapping[str, ModelSpec] = types.MappingProxyType({
    "nano": _preset("nano", VAESpec((16, 32, 64, 128), 16, (1, 1, 2, 2), (1, 2, 2, 3), 1), 4, 128, 3, TextEncoderSpec(128, max_length=32), 160),
    "tiny": _preset("tiny", VAESpec((32, 64, 128, 256), 16, (1, 2, 3, 3), (1, 2, 4, 5), 1), 6, 256, 4, TextEncoderSpec(), 256),
    "small": _preset("small", VAESpec((64, 128, 256, 512), 32, (2, 2, 3, 4), (2, 2, 3, 5), 2), 12, 384, 4, TextEncoderSpec(), 512),
    "base": _preset("base", VAESpec((128, 256, 512, 512), 32, (1, 2, 2, 3), (3, 4, 4, 5), 2), 18, 512, 3, TextEncoderSpec(), 512),
})  # fmt: skip


def preset(name: str) -> ModelSpec:
    """The configuration called ``name``.

    Raises:
        SpecError: for an unknown name; lists the known ones.
    """
    if name not in PRESETS:
        raise SpecError(f"unknown configuration {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]


def to_dict(spec: object) -> dict[str, Any]:
    """The JSON values of a spec (tuples become lists); ``from_dict`` is the inverse."""
    if not is_dataclass(spec) or isinstance(spec, type):
        raise TypeError(f"not a spec: {spec!r}")
    values = _listed(dataclasses.asdict(spec))
    for table in (values, values.get("vae", {})):
        if table.get("alpha") is False:  # files of opaque models stay as they are
            del table["alpha"]
    return typing.cast(dict[str, Any], values)


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (tuple, list)) else value


def from_dict(kind: type[SpecT], values: object, where: str = "config") -> SpecT:
    """Build the spec ``kind`` from JSON values.

    Raises:
        SpecError: for an unknown, missing or wrongly typed key; the message names it by its path.
    """
    if not isinstance(values, dict):
        raise SpecError(f"{where} must be a table of settings, got {type(values).__name__}")
    hints = _type_hints(typing.cast(Hashable, kind))
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise SpecError(f"{where} has an unknown key {shown(unknown[0])}; allowed: {', '.join(known)}")
    built = {key: _coerce(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    try:
        return kind(**built)
    except TypeError as error:
        missing = [
            name for name, item in known.items()
            if name not in built and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        ]  # fmt: skip
        if missing:
            raise SpecError(f"{where} lacks the key {missing[0]!r}") from None
        raise SpecError(f"{where}: {error}") from None


@functools.cache
def _type_hints(kind: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):  # X | None
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return None if value is None else _coerce(kinds[0], value, where)
    if is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise SpecError(f"{where} must be a list, got {shown(value)}")
        inner = typing.get_args(hint)
        if inner[-1] is not Ellipsis and len(inner) != len(value):
            raise SpecError(f"{where} must hold {len(inner)} values, got {len(value)}")
        return tuple(_coerce(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    accepted = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}[hint]
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise SpecError(f"{where} must be {hint.__name__}, got {shown(value)}")
    if hint is not float:
        return value
    try:
        number = float(value)
    except OverflowError:  # an integer beyond them
        number = math.inf
    if not math.isfinite(number):
        raise SpecError(f"{where} must be a finite number, got {shown(value)}")
    return number
